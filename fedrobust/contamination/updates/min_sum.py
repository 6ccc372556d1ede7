"""Min-Sum: as far from the honest mean as the largest sum of distances of an honest update to the
others allows."""

from __future__ import annotations

from collections.abc import Callable

from fedrobust.contamination.base import Contamination
from fedrobust.contamination.updates.collusion import Knowledge
from fedrobust.contamination.updates.distance_bounded import (
    Deviation,
    Perturbation,
    UpdateDistances,
    distance_bounded_attack,
)
from fedrobust.utils.validation import NonNegative, check_settings


@check_settings("contamination")
def min_sum(
    *,
    perturbation: Perturbation = "std",
    gamma: NonNegative | None = None,
    noise: NonNegative = 0.0,
    knowledge: Knowledge = "omniscient",
) -> Contamination:
    """Every attacker's update becomes mean + gamma * p of the known updates, with the largest gamma
    at which the sum of its squared distances to them is at most the largest such sum of one of
    them. Gamma is searched for as in `min_max`.

    Args:
        perturbation: the direction p. std: minus the standard deviation of every coordinate; sign:
            minus the sign of the mean; unit: minus the mean at length 1.
        gamma: how far; 0: the mean is sent; null: as far as the largest sum of distances of an
            honest update allows.
        noise: standard deviations, in each coordinate, of noise of each attacker's own, by which
            attackers differ as honest clients do (1: as much); 0: all send the same, which rules
            that count copies notice. Not in the paper; gamma is then smaller, since the distances
            include the noise.
        knowledge: omniscient: of all honest updates; own: of the poisoned clients' only.

    Returns:
        A contamination of clients that work together.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Shejwalkar, Houmansadr, NDSS 2021. The authors' code takes the smallest of those sums for
        the bound; with that bound the shift agrees with it to 1e-3 of its length on eight random
        updates.

    Needs:
        collusion: attackers know all honest updates, or with knowledge=own each other's
    """
    return distance_bounded_attack(
        "min_sum", Deviation(perturbation, gamma, noise), knowledge, within_largest_sum
    )


def within_largest_sum(crowd: UpdateDistances) -> tuple[Callable[[float], bool], float]:
    """The condition, and a start of the search: the sum is at least H gamma^2 |p|^2, so gamma |p|
    <= sqrt(limit / H)."""
    limit = float(crowd.pairs.sum(dim=1).max())
    start = (limit / (len(crowd.along_H) * crowd.square)) ** 0.5 if crowd.square > 0 else 0.0
    return lambda gamma: float(crowd.squares_from(gamma).sum()) <= limit, start
