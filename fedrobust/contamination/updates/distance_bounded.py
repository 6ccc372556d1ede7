"""Attacks that hide in the crowd of honest updates: the mean, moved as far as the distances between
honest updates allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedrobust.aggregation.updates import UpdateRows, squared_distances
from fedrobust.contamination.base import AttackContext, Contamination, CraftedUpdates
from fedrobust.contamination.updates.collusion import (
    Knowledge,
    largest_accepted,
    make_collusion,
    sample_std,
)

Perturbation = Literal["std", "sign", "unit"]


@dataclass(frozen=True, slots=True)
class UpdateDistances:
    """The H known updates u seen from their mean, and a direction p: all that is needed for every
    distance of mean + gamma * p.

    gram_HH: inner products of u - mean. along_H: those of u - mean with p. square: |p|^2. All
    float64.
    """

    gram_HH: Tensor
    along_H: Tensor
    square: float

    @property
    def pairs(self) -> Tensor:
        """(H, H) squared distances between the updates."""
        return squared_distances(self.gram_HH)

    def squares_from(self, gamma: float) -> Tensor:
        """(H,) squared distances |mean + gamma p - u|^2 = |u - mean|^2 - 2 gamma <p, u - mean> +
        gamma^2 |p|^2."""
        return (self.gram_HH.diagonal() - 2 * gamma * self.along_H + gamma**2 * self.square).clamp(
            min=0
        )


Within = Callable[
    [UpdateDistances], tuple[Callable[[float], bool], float]
]  # -> (whether a gamma is allowed, half of what gamma can be at most)


def distance_bounded_attack(
    name: str,
    perturbation: Perturbation,
    gamma: float | None,
    knowledge: Knowledge,
    within: Within,
) -> Contamination:
    """All attackers send mean + gamma * p; gamma: given, or the largest that `within` allows, found
    by `collusion.largest_accepted`."""

    def attack(context: AttackContext) -> CraftedUpdates:
        crowd, length = summarise(context.known, perturbation)
        step = largest_accepted(*within(crowd)) if gamma is None else gamma
        step /= length
        return CraftedUpdates(
            (part, strip_Hb.mean(dim=0) + step * perturbation_direction(strip_Hb, perturbation))
            for part, strip_Hb in context.known.column_strips()
        )

    return make_collusion(name, attack, knowledge)


def perturbation_direction(strip_Hb: Tensor, perturbation: Perturbation) -> Tensor:
    """(b,) the direction p in these columns, but for the length of "unit": minus the standard
    deviations, the signs of the mean, or the mean (the inverse standard deviation, sign and unit
    vector of Shejwalkar & Houmansadr, NDSS 2021)."""
    if perturbation == "std":
        return -sample_std(strip_Hb)
    mean_b = strip_Hb.mean(dim=0)
    return -mean_b.sign() if perturbation == "sign" else -mean_b


def summarise(known: UpdateRows, perturbation: Perturbation) -> tuple[UpdateDistances, float]:
    """The crowd with its direction, and by what `perturbation_direction` must be divided for it:
    for "unit" the length of the mean (1 where that is 0), else 1."""
    gram_HH = torch.zeros(len(known), len(known), dtype=torch.float64)
    along_H, square = torch.zeros(len(known), dtype=torch.float64), 0.0
    for _, strip_Hb in known.column_strips():
        wide_Hb, p_b = (
            strip_Hb.to(torch.float64),
            perturbation_direction(strip_Hb, perturbation).to(torch.float64),
        )
        centred_Hb = wide_Hb - wide_Hb.mean(dim=0)
        gram_HH += (centred_Hb @ centred_Hb.T).cpu()
        along_H += (centred_Hb @ p_b).cpu()
        square += float(p_b @ p_b)
    length = square**0.5 if perturbation == "unit" and square > 0 else 1.0
    return UpdateDistances(gram_HH, along_H / length, square / length**2), length
