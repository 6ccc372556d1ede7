"""Min-Max: as far from the honest mean as the largest distance between two honest updates
allows."""

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
def min_max(
    *,
    perturbation: Perturbation = "std",
    gamma: NonNegative | None = None,
    noise: NonNegative = 0.0,
    knowledge: Knowledge = "omniscient",
) -> Contamination:
    """Every attacker's update becomes mean + gamma * p of the known updates, with the largest gamma
    at which its distance to any of them is at most the largest distance between two of them.

    Gamma is searched for in every round by halved steps; the start comes from the distances, since
    the paper's constant one is too coarse for short updates. A single known update is sent
    unchanged.

    Args:
        perturbation: the direction p. std: minus the standard deviation of every coordinate; sign:
            minus the sign of the mean; unit: minus the mean at length 1.
        gamma: how far; 0: the mean is sent; null: as far as the largest distance between honest
            updates allows.
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
        Shejwalkar, Houmansadr, NDSS 2021. The shift agrees with the authors' code to 1e-3 of its
        length on eight random updates that are short enough for the start of their search.

    Needs:
        collusion: attackers know all honest updates, or with knowledge=own each other's
    """
    return distance_bounded_attack(
        "min_max", Deviation(perturbation, gamma, noise), knowledge, within_largest_distance
    )


def within_largest_distance(crowd: UpdateDistances) -> tuple[Callable[[float], bool], float]:
    """The condition, and a start of the search: mean and mean + gamma p are both within R of any
    update, so gamma |p| <= 2 R."""
    limit = float(crowd.pairs.max())
    start = (limit / crowd.square) ** 0.5 if crowd.square > 0 else 0.0
    return lambda gamma: float(crowd.squares_from(gamma).max()) <= limit, start
