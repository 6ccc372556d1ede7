"""Min-Sum: as far from the honest mean as the largest sum of distances of an honest update to the
others allows."""

from __future__ import annotations

from collections.abc import Callable

from fedrobust.contamination.base import Contamination
from fedrobust.contamination.updates.distance_bounded import (
    UpdateDistances,
    distance_bounded_attack,
)


def min_sum(
    *, perturbation: str = "std", gamma: float | None = None, knowledge: str = "omniscient"
) -> Contamination:
    """Every attacker's update becomes mean + gamma * p of the known updates, with the largest gamma
    at which the sum of its squared distances to them is at most the largest such sum of one of them
    (Shejwalkar & Houmansadr, NDSS 2021).

    The settings are those of `min_max`.
    """
    return distance_bounded_attack("min_sum", perturbation, gamma, knowledge, within_largest_sum)


def within_largest_sum(crowd: UpdateDistances) -> tuple[Callable[[float], bool], float]:
    """The condition, and a start of the search: the sum is at least H gamma^2 |p|^2, so gamma |p|
    <= sqrt(limit / H)."""
    limit = float(crowd.pairs.sum(dim=1).max())
    start = (limit / (len(crowd.along_H) * crowd.square)) ** 0.5 if crowd.square > 0 else 0.0
    return lambda gamma: float(crowd.squares_from(gamma).sum()) <= limit, start
