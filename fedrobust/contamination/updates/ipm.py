"""Inner product manipulation: all attackers send the reversed mean of the honest updates."""

from __future__ import annotations

from torch import Tensor

from fedrobust.contamination.base import AttackContext, Contamination, CraftedUpdates
from fedrobust.contamination.updates.collusion import make_collusion, tune_against_rule
from fedrobust.utils.validation import number


def ipm(*, factor: float = 2.0, knowledge: str = "omniscient") -> Contamination:
    """Every attacker's update becomes -factor * mean of the known updates (Xie, Koyejo & Gupta, UAI
    2019).

    factor >= 0 (their epsilon): below 1 it hides among small honest updates; among N clients with f
    attackers a plain mean goes backwards above (N - f) / f. 0: they send nothing new. knowledge:
    see `base.Collusion`.
    """
    number("contamination.factor", factor, low=0)

    def attack(context: AttackContext) -> CraftedUpdates:
        return CraftedUpdates(
            (part, strip_Hb.mean(dim=0) * -factor)
            for part, strip_Hb in context.known.column_strips()
        )

    return make_collusion("ipm", attack, knowledge)


def optimal_ipm(*, evaluations: int = 20) -> Contamination:
    """`ipm` whose factor is tuned against the live rule in every round, as in the experiments of
    Allouah et al. (AISTATS 2023): see `_collusion.tuned`.

    evaluations: how often the rule is applied for it; a rule that distils makes this dear.
    Omniscient by nature.
    """
    number("contamination.evaluations", evaluations, low=1, integer=True)

    def candidate(factor: float, mean_Sb: Tensor) -> Tensor:
        return mean_Sb[0] * -factor

    return make_collusion(
        "optimal_ipm",
        tune_against_rule(
            lambda strip_Hb: strip_Hb.mean(dim=0, keepdim=True), 1, candidate, evaluations
        ),
    )
