"""A little is enough: all attackers send the mean of the honest updates, moved in every coordinate
by a few standard deviations."""

from __future__ import annotations

import torch
from scipy.stats import norm
from torch import Tensor

from fedrobust.contamination.base import AttackContext, Contamination, CraftedUpdates
from fedrobust.contamination.updates.collusion import (
    Knowledge,
    make_collusion,
    sample_std,
    tune_against_rule,
)
from fedrobust.utils.validation import NonNegative, PositiveCount, check_settings


@check_settings("contamination")
def alie(*, z: NonNegative | None = None, knowledge: Knowledge = "omniscient") -> Contamination:
    """A little is enough: every attacker's update becomes mean + z * standard deviation of the
    known updates, coordinate by coordinate (sample standard deviations).

    A single known update has no spread: it is sent unchanged.

    Args:
        z: standard deviations away from the mean; 0: the mean is sent; null: as far as a majority
            allows (`largest_z` of this round's clients and attackers).
        knowledge: omniscient: of all honest updates; own: of the poisoned clients' only, as in the
            paper.

    Returns:
        A contamination of clients that work together.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Baruch, Baruch, Goldberg, NeurIPS 2019, algorithm 3.
    """

    def attack(context: AttackContext) -> CraftedUpdates:
        wide = largest_z(context.total, len(context.own)) if z is None else z
        return CraftedUpdates(
            (part, strip_Hb.mean(dim=0) + wide * sample_std(strip_Hb))
            for part, strip_Hb in context.known.column_strips()
        )

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
    """

    def candidate(z: float, statistics_Sb: Tensor) -> Tensor:
        return statistics_Sb[0] + z * statistics_Sb[1]

    return make_collusion(
        "optimal_alie", tune_against_rule(_mean_and_spread, 2, candidate, evaluations)
    )


def _mean_and_spread(strip_Hb: Tensor) -> Tensor:
    return torch.stack([strip_Hb.mean(dim=0), sample_std(strip_Hb)])


def largest_z(total: int, attackers: int) -> float:
    """Largest shift of f attackers among N clients, in standard deviations, that leaves them short
    of the extremes: the normal quantile of (N - f - s) / (N - f), where s = floor(N / 2 + 1) - f
    honest clients must lie further out for a majority (algorithm 3, lines 1-3).

    Never below 0, and where attackers need no support (s < 1) that of half a client out.
    """
    honest = max(1, total - attackers)
    supporters = max(0.5, total // 2 + 1 - attackers)
    return max(0.0, float(norm.ppf(1 - supporters / honest)))
