"""Inner product manipulation: all attackers send the reversed mean of the honest updates."""

from __future__ import annotations

from torch import Tensor

from fedrobust.contamination.base import Contamination, Forged, Scene
from fedrobust.contamination.updates.collusion import colluding, tuned
from fedrobust.utils.validation import number


def ipm(*, factor: float = 2.0, knowledge: str = "omniscient") -> Contamination:
    """Every attacker's update becomes -factor * mean of the known updates (Xie, Koyejo & Gupta, UAI 2019).

    factor >= 0 (their epsilon): below 1 it hides among small honest updates; among N clients with f attackers a plain mean goes
    backwards above (N - f) / f. 0: they send nothing new. knowledge: see `base.Collusion`.
    """
    number("contamination.factor", factor, low=0)

    def attack(scene: Scene) -> Forged:
        return Forged((part, strip_Hb.mean(dim=0) * -factor) for part, strip_Hb in scene.known.strips())

    return colluding("ipm", attack, knowledge)


def optimal_ipm(*, evaluations: int = 20) -> Contamination:
    """`ipm` whose factor is tuned against the live rule in every round, as in the experiments of Allouah et al. (AISTATS 2023): see
    `_collusion.tuned`.

    evaluations: how often the rule is applied for it; a rule that distils makes this dear. Omniscient by nature.
    """
    number("contamination.evaluations", evaluations, low=1, integer=True)

    def candidate(factor: float, mean_Sb: Tensor) -> Tensor:
        return mean_Sb[0] * -factor

    return colluding("optimal_ipm", tuned(lambda strip_Hb: strip_Hb.mean(dim=0, keepdim=True), 1, candidate, evaluations))
