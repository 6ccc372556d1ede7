"""Krum and Multi-Krum: trust the updates that lie closest to their nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import squared_distances
from fedrobust.errors import ConfigError
from fedrobust.utils.counting import format_count
from fedrobust.utils.validation import Count, PositiveCount, check_settings


@check_settings("strategy")
def krum(f: Count = 3) -> Strategy:
    """The one update that lies nearest to its N - f - 2 nearest others; the first client wins a
    tie.

    Args:
        f: attackers to tolerate, among at least 2f + 3 clients.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017.

    Needs:
        at least 2f + 3 clients a round
    """
    return Strategy("krum", lambda round: _select(round, f, 1), min_clients=2 * f + 3)


@check_settings("strategy")
def multi_krum(f: Count = 3, m: PositiveCount | None = None) -> Strategy:
    """The unweighted mean of the m updates with the smallest Krum scores.

    Args:
        f: attackers to tolerate, among at least 2f + 3 clients.
        m: updates that are averaged; null: N - f, as in the paper's experiments. 1 is Krum, and m
            above N - f must let attackers in.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range, or m is greater than the number of clients.

    Reference:
        Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017, section 4 and its experiments.

    Needs:
        at least 2f + 3 clients a round
    """
    return Strategy(
        "multi_krum",
        lambda round: _select(round, f, _kept(len(round.updates), f, m)),
        min_clients=2 * f + 3,
    )


def _kept(num_clients: int, f: int, m: int | None) -> int:
    if m is not None and m > num_clients:
        raise ConfigError(
            f"strategy.m={m}: only "
            f"{format_count(num_clients, 'client')} replied; try strategy.m=null (all but f)"
        )
    return num_clients - f if m is None else m


def _select(round: Round, f: int, m: int) -> Aggregate:
    scores_N = krum_scores(squared_distances(round.updates.gram()).cpu(), f)
    weights_N = torch.zeros_like(scores_N)
    weights_N[scores_N.argsort(stable=True)[:m]] = 1 / m
    return make_aggregate(
        round, round.updates.combine(weights_N), weights_N, extras={"krum_score": scores_N.tolist()}
    )


def krum_scores(squared_NN: Tensor, f: int) -> Tensor:
    """(N,) sums of squared distances to the N - f - 2 nearest others, from the (N, N) matrix of
    squared distances.

    An update so large that its distances are undefined is infinitely far from all others.
    """
    n = len(squared_NN)
    far_NN = squared_NN.nan_to_num(nan=torch.inf, posinf=torch.inf).fill_diagonal_(torch.inf)
    return far_NN.sort(dim=1).values[:, : n - f - 2].sum(dim=1)
