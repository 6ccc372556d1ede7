"""Attacks that stay close to honest updates: the mean, moved as far as the distances between
honest updates allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
    with_noise,
)

Perturbation = Literal["std", "sign", "unit"]


@dataclass(frozen=True, slots=True)
class UpdateDistances:
    """The H known updates u seen from their mean, and a direction p: all that is needed for every
    distance of mean + gamma * p.

    gram_HH: inner products of u - mean. along_H: those of u - mean with p. square: |p|^2. All
    float64. noise: expected squared length of each attacker's own noise, which is taken for
    orthogonal to all else.
    """

    gram_HH: Tensor
    along_H: Tensor
    square: float
    noise: float = 0.0

    @property
    def pairs(self) -> Tensor:
        """(H, H) squared distances between the updates."""
        return squared_distances(self.gram_HH)

    def squares_from(self, gamma: float) -> Tensor:
        """(H,) squared distances |mean + gamma p - u|^2 = |u - mean|^2 - 2 gamma <p, u - mean> +
        gamma^2 |p|^2, and that of the noise."""
        exact_H = self.gram_HH.diagonal() - 2 * gamma * self.along_H + gamma**2 * self.square
        return exact_H.clamp(min=0) + self.noise


Within = Callable[
    [UpdateDistances], tuple[Callable[[float], bool], float]
]  # -> (whether a gamma is allowed, half of what gamma can be at most)


@dataclass(frozen=True, slots=True)
class Deviation:
    """How attackers deviate from the mean: the direction, how far (None: as far as is allowed), and
    the noise of each one's own in standard deviations of the known updates."""

    perturbation: Perturbation
    gamma: float | None
    noise: float


def distance_bounded_attack(
    name: str, deviation: Deviation, knowledge: Knowledge, within: Within
) -> Contamination:
    """All attackers send mean + gamma * p, and noise of their own; gamma: given, or the largest
    that `within` allows, found by `collusion.largest_accepted`."""
    perturbation, gamma, noise = deviation.perturbation, deviation.gamma, deviation.noise

    def attack(context: AttackContext) -> CraftedUpdates:
        crowd, length = summarise(context.known, perturbation)
        crowd = replace(crowd, noise=noise**2 * variance(crowd.gram_HH))
        step = largest_accepted(*within(crowd)) if gamma is None else gamma
        step /= length

        def crafted(strip_Hb: Tensor) -> Tensor:
            return strip_Hb.mean(dim=0) + step * perturbation_direction(strip_Hb, perturbation)

        return CraftedUpdates(
            (part, with_noise(context, strip_Hb, crafted(strip_Hb), noise))
            for part, strip_Hb in context.known.column_strips()
        )

    return make_collusion(name, attack, knowledge)


def variance(gram_HH: Tensor) -> float:
    """The sum of the sample variances of all coordinates, from inner products of u - mean."""
    return float(gram_HH.trace()) / max(1, len(gram_HH) - 1)


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
