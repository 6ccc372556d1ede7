"""A little is enough: all attackers send the mean of the honest updates, moved in every coordinate
by a few standard deviations."""

from __future__ import annotations

import torch
from scipy.special import ndtri
from torch import Tensor

from fedrobust.contamination.base import AttackContext, Contamination, CraftedUpdates
from fedrobust.contamination.updates.collusion import (
    Knowledge,
    make_collusion,
    sample_std,
    tune_against_rule,
    with_noise,
)
from fedrobust.utils.validation import NonNegative, PositiveCount, check_settings


@check_settings("contamination")
def alie(
    *,
    z: NonNegative | None = None,
    noise: NonNegative = 0.0,
    knowledge: Knowledge = "omniscient",
) -> Contamination:
    """A little is enough: every attacker's update becomes mean + z * standard deviation of the
    known updates, coordinate by coordinate (sample standard deviations).

    A single known update has no spread: it is sent unchanged.

    Args:
        z: standard deviations away from the mean; 0: the mean is sent; null: as far as a majority
            allows, and further where too few attackers for one would send the mean (`largest_z` of
            this round's clients and attackers).
        noise: standard deviations, in each coordinate, of noise of each attacker's own, by which
            attackers differ as honest clients do (1: as much); 0: all send the same, which rules
            that count copies notice. Not in the paper.
        knowledge: omniscient: of all honest updates; own: of the poisoned clients' only, as in the
            paper.

    Returns:
        A contamination of clients that work together.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Baruch, Baruch, Goldberg, NeurIPS 2019. The authors' code subtracts z standard deviations,
        with the number of updates as divisor instead of one less.

    Needs:
        collusion: attackers know all honest updates, or with knowledge=own each other's
    """

    def attack(context: AttackContext) -> CraftedUpdates:
        wide = largest_z(context.total, len(context.own)) if z is None else z
        return CraftedUpdates(
            (part, with_noise(context, strip_Hb, moved(strip_Hb, wide), noise))
            for part, strip_Hb in context.known.column_strips()
        )

    def moved(strip_Hb: Tensor, wide: float) -> Tensor:
        return strip_Hb.mean(dim=0) + wide * sample_std(strip_Hb)

    return make_collusion("alie", attack, knowledge)


@check_settings("contamination")
def optimal_alie(*, evaluations: PositiveCount = 20) -> Contamination:
    """`alie` whose z is tuned against the live rule in every round (`collusion.tune_against_rule`).
    Omniscient by nature.

    Args:
        evaluations: applications of the rule per round by which z is tuned; a rule that distils
            makes this expensive.

    Returns:
        A contamination of clients that work together.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Allouah et al., AISTATS 2023, experiments.

    Needs:
        collusion: attackers know all honest updates and the rule
    """

    def candidate(z: float, statistics_Sb: Tensor) -> Tensor:
        return statistics_Sb[0] + z * statistics_Sb[1]

    return make_collusion(
        "optimal_alie", tune_against_rule(_mean_and_spread, 2, candidate, evaluations)
    )


def _mean_and_spread(strip_Hb: Tensor) -> Tensor:
    return torch.stack([strip_Hb.mean(dim=0), sample_std(strip_Hb)])


def largest_z(total: int, attackers: int) -> float:
    """Largest shift of f attackers among N clients, in standard deviations, at which enough honest
    clients still lie further out.

    As in the paper, the normal quantile of (H - s) / H, H = N - f honest clients, of which s =
    floor(N / 2 + 1) - f must lie further out for a majority. Where attackers need no support (s <
    1), half a client does. Few attackers (f = 1, and f = 2 of an even N) need s >= H / 2
    supporters: the quantile is 0 or negative, no shift has a majority. There the smallest positive
    quantile is taken, that of the most supporters who are fewer than half of H: s = ceil(H / 2) -
    1. One honest client has no quantiles: H counts as 2 at least.
    """
    honest = max(2, total - attackers)
    fewer_than_half = max(0.5, (honest + 1) // 2 - 1)
    supporters = min(max(0.5, total // 2 + 1 - attackers), fewer_than_half)
    return float(ndtri(1 - supporters / honest))
