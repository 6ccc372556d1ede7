"""MDA: the mean of the N - f updates with the smallest diameter."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import squared_distances
from fedrobust.errors import ConfigError
from fedrobust.utils.counting import format_count
from fedrobust.utils.validation import Count, check_settings

STEPS = 200_000  # of the search: some seconds


@check_settings("strategy")
def mda(f: Count = 3) -> Strategy:
    """Minimum diameter averaging: the mean of those N - f updates whose largest distance from each
    other is smallest.

    Of several such sets the one with the least sum of squared distances. The search is exact: a set
    has at most some diameter when the f updates left out cover all pairs that are farther apart.
    Its time grows with 2^f at worst, with N only slowly; where it would take more than `STEPS`
    steps, the rule raises ConfigError.

    Args:
        f: attackers to tolerate, among more than 2f clients.

    Returns:
        The rule.

    Raises:
        ConfigError: f is out of its range.

    Reference:
        El-Mhamdi, Guerraoui, Guirguis, Hoang, Rouault, PODC 2020; Rousseeuw 1985.

    Needs:
        at least 2f + 1 clients a round
    """

    def rule(round: Round) -> Aggregate:
        kept = smallest(squared_distances(round.updates.gram()).cpu(), f)
        weights_N = torch.zeros(len(round.updates), dtype=torch.float64)
        weights_N[kept] = 1 / len(kept)
        return make_aggregate(round, round.updates.combine(weights_N), weights_N)

    return Strategy("mda", rule, min_clients=2 * f + 1)


def smallest(squared_NN: Tensor, f: int) -> list[int]:
    """The N - f rows with the smallest diameter, ascending. Raises ConfigError where the search is
    too long."""
    levels = sorted(set(squared_NN.flatten().tolist()))
    search = _Search(len(squared_NN), f)
    low, high = 0, len(levels) - 1  # at the highest level no pair is too far apart
    while low < high:
        middle = (low + high) // 2
        found = next(search.covers(far(squared_NN, levels[middle])), None)
        low, high = (middle + 1, high) if found is None else (low, middle)
    sets = (_without(squared_NN, cover, f) for cover in search.covers(far(squared_NN, levels[low])))
    return min(sets, key=lambda kept: float(squared_NN[kept][:, kept].sum()))


def far(squared_NN: Tensor, level: float) -> list[int]:
    """Bit mask, for each row, of the rows that are farther from it than the level."""
    return [
        sum(1 << other for other in row.nonzero().flatten().tolist()) for row in squared_NN > level
    ]


def _without(squared_NN: Tensor, cover: int, f: int) -> list[int]:
    """All rows but the cover and, where that has fewer than f, those farthest from the others."""
    kept = [row for row in range(len(squared_NN)) if not cover >> row & 1]
    while len(kept) > len(squared_NN) - f:
        kept.pop(int(squared_NN[kept][:, kept].sum(dim=1).argmax()))
    return kept


class _Search:
    """Vertex covers by branching on the row with the most pairs: either it is left out or all that
    it is too far from."""

    def __init__(self, n: int, f: int) -> None:
        self._n, self._f, self._steps = n, f, 0

    def covers(self, far: list[int]) -> Iterator[int]:
        """Bit masks of at most f rows such that no two of the others are too far apart; all that
        contain no smaller one are among them."""
        yield from self._branch(far, (1 << self._n) - 1, self._f)

    def _branch(self, far: list[int], left: int, budget: int) -> Iterator[int]:
        self._count()
        degrees = [
            (far[row] & left).bit_count() if left >> row & 1 else 0 for row in range(self._n)
        ]
        most = max(degrees)
        if most == 0:
            yield 0
        if most == 0 or most * budget < sum(degrees) // 2:  # so many rows cannot cover all pairs
            return
        row = degrees.index(most)
        others = far[row] & left
        for cover in self._branch(far, left & ~(1 << row), budget - 1):
            yield cover | 1 << row
        if most <= budget:
            for cover in self._branch(far, left & ~others & ~(1 << row), budget - most):
                yield cover | others

    def _count(self) -> None:
        self._steps += 1
        if self._steps > STEPS:
            raise ConfigError(
                f"strategy.f={self._f}: the exact search of strategy=mda among "
                f"{format_count(self._n, 'client')} "
                f"takes more than {STEPS} steps; choose a smaller f, or strategy=monna"
            )
