"""MoNNA: the mean of the updates nearest to a trusted one."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import squared_distances
from fedrobust.errors import ConfigError
from fedrobust.utils.validation import Count, check_settings


@check_settings("strategy")
def monna(f: Count = 3, pivot: Count | None = None) -> Strategy:
    """The mean of the N - f updates nearest to the pivot's, itself included ("nearest neighbour
    averaging"). The first client wins a tie.

    In the paper every client averages around its own update, which a server does not have.

    Args:
        f: attackers to tolerate, among more than 2f clients.
        pivot: the number of a trusted client, which must reply in every round; null: the medoid,
            the update with the least sum of distances to the others (our choice).

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan, ICML 2023.

    Needs:
        at least 2f + 1 clients a round
    """

    def rule(round: Round) -> Aggregate:
        updates = round.updates
        if pivot is not None and pivot not in updates.clients:
            raise ConfigError(
                f"strategy.pivot={pivot}: this client did not reply in round "
                f"{round.number}; try strategy.pivot=null"
            )
        squared_NN = squared_distances(updates.gram()).cpu()
        row = medoid(squared_NN) if pivot is None else updates.clients.index(pivot)
        weights_N = nearest_rows(squared_NN[row], len(updates) - f)
        return make_aggregate(
            round,
            updates.combine(weights_N),
            weights_N,
            extras={"pivot": float(updates.clients[row])},
        )

    return Strategy("monna", rule, min_clients=2 * f + 1)


def medoid(squared_NN: Tensor) -> int:
    """The row with the least sum of distances to all others."""
    return int(squared_NN.sqrt().sum(dim=1).argmin())


def nearest_rows(squared_N: Tensor, kept: int) -> Tensor:
    """(N,) float64 weights: equal for the `kept` smallest values, 0 for the others."""
    weights_N = torch.zeros(len(squared_N), dtype=torch.float64)
    weights_N[squared_N.argsort(stable=True)[:kept]] = 1 / kept
    return weights_N
