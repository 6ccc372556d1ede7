"""Bulyan: many rounds of Krum choose updates, and a mean around the median joins them."""

from __future__ import annotations

import torch
from fedrobust.strategies.meamed import around_median
from torch import Tensor

from fedrobust.aggregation.coordinatewise import coordinatewise
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import squared_distances
from fedrobust.utils.validation import Count, check_settings


@check_settings("strategy")
def bulyan(f: Count = 1) -> Strategy:
    """Krum chooses N - 2f updates one after the other, each among those that are left; of these the
    result has in every coordinate the mean of the N - 4f values nearest to their median.

    Among m updates left a score is the sum of the squared distances to the m - f - 2 nearest
    others, at least one. The influence reported of a client is its share in that mean, averaged
    over the coordinates.

    Args:
        f: attackers to tolerate, among at least 4f + 3 clients.

    Returns:
        The rule.

    Raises:
        ConfigError: f is out of its range.

    Reference:
        El Mhamdi, Guerraoui, Rouault, ICML 2018.

    Needs:
        at least 4f + 3 clients a round
    """

    def rule(round: Round) -> Aggregate:
        n = len(round.updates)
        chosen = select_rows(squared_distances(round.updates.gram()).cpu(), f)
        update_D, influence = coordinatewise(
            round.updates, around_median(n - 2 * f, n - 4 * f), chosen
        )
        weights_N = torch.zeros(n, dtype=torch.float64)
        weights_N[chosen] = influence
        return make_aggregate(round, update_D, weights_N)

    return Strategy("bulyan", rule, min_clients=4 * f + 3)


def select_rows(squared_NN: Tensor, f: int) -> Tensor:
    """The N - 2f rows that Krum chooses, ascending, from the (N, N) squared distances.

    Where one neighbour counts, two nearest to each other have the same score: then the one whose
    next neighbours are nearer comes first.
    """
    left = list(range(len(squared_NN)))
    while len(left) > 2 * f:
        far_MM = (
            squared_NN[left][:, left]
            .nan_to_num(nan=torch.inf, posinf=torch.inf)
            .fill_diagonal_(torch.inf)
        )
        near_MM = far_MM.sort(dim=1).values
        scores = near_MM[:, : max(len(left) - f - 2, 1)].sum(dim=1).tolist()
        best = min(scores)
        least = [place for place, score in enumerate(scores) if score == best]
        left.pop(min(least, key=lambda place: near_MM[place].tolist()))
    taken_N = torch.ones(len(squared_NN), dtype=torch.bool)
    taken_N[left] = False
    return taken_N.nonzero().flatten()
