"""Inner product manipulation: all attackers send the reversed mean of the honest updates."""

from __future__ import annotations

from torch import Tensor

from fedrobust.contamination.base import AttackContext, Contamination, CraftedUpdates
from fedrobust.contamination.updates.collusion import Knowledge, make_collusion, tune_against_rule
from fedrobust.utils.validation import NonNegative, PositiveCount, check_settings


@check_settings("contamination")
def ipm(*, factor: NonNegative = 2.0, knowledge: Knowledge = "omniscient") -> Contamination:
    """Inner product manipulation: every attacker's update becomes -factor * mean of the known
    updates.

    Args:
        factor: the mean of the known updates times minus this is sent (the paper's epsilon). Below
            1 it hides among small honest updates; among N clients with f attackers a plain mean
            goes backwards above (N - f) / f. 0: nothing new is sent.
        knowledge: omniscient: of all honest updates; own: of the poisoned clients' only.

    Returns:
        A contamination of clients that work together.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Xie, Koyejo, Gupta, UAI 2019.

    Needs:
        collusion: attackers know all honest updates, or with knowledge=own each other's
    """

    def attack(context: AttackContext) -> CraftedUpdates:
        return CraftedUpdates(
            (part, strip_Hb.mean(dim=0) * -factor)
            for part, strip_Hb in context.known.column_strips()
        )

    return make_collusion("ipm", attack, knowledge)


@check_settings("contamination")
def optimal_ipm(*, evaluations: PositiveCount = 20) -> Contamination:
    """`ipm` whose factor is tuned against the live rule in every round
    (`collusion.tune_against_rule`). Omniscient by nature.

    Args:
        evaluations: applications of the rule per round by which the factor is tuned; a rule that
            distils makes this expensive.

    Returns:
        A contamination of clients that work together.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Allouah et al., AISTATS 2023, experiments.

    Needs:
        collusion: attackers know all honest updates and the rule
    """

    def candidate(factor: float, mean_Sb: Tensor) -> Tensor:
        return mean_Sb[0] * -factor

    return make_collusion(
        "optimal_ipm",
        tune_against_rule(
            lambda strip_Hb: strip_Hb.mean(dim=0, keepdim=True), 1, candidate, evaluations
        ),
    )
