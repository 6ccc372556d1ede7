"""Helpers of colluding attacks: statistics of updates by column strips, and the searches for a
factor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fedrobust.contamination.base import (
    AttackContext,
    Collusion,
    Contamination,
    CraftedUpdates,
    Strips,
)

Knowledge = Literal["omniscient", "own"]  # whose updates attackers know
SMALLEST = 2**-24  # probability of a normal number drawn by its quantile
CHUNK = 1 << 20  # values of a vector that are worked on at once


def make_collusion(
    name: str,
    attack: Callable[[AttackContext], CraftedUpdates],
    knowledge: Knowledge = "omniscient",
) -> Contamination:
    """A contamination that is nothing but this attack."""
    return Contamination(name, collude=Collusion(attack, knowledge))


def sample_std(strip_Hb: Tensor) -> Tensor:
    """(b,) sample standard deviations (divided by H - 1) of the columns; a single row has none:
    0."""
    if len(strip_Hb) == 1:
        return torch.zeros_like(strip_Hb[0])
    # torch's own std takes ten times as long along this axis
    away_Hb = strip_Hb - strip_Hb.mean(dim=0)
    return away_Hb.square_().sum(dim=0).div_(len(strip_Hb) - 1).sqrt_()


def with_noise(context: AttackContext, strip_Hb: Tensor, crafted_b: Tensor, noise: float) -> Tensor:
    """(M, b) what each attacker sends: the crafted values with independent normal noise, `noise`
    times the sample standard deviation of each column of the known updates; (b,) the very same
    without noise. Drawn column by column, so that the width of strips does not matter."""
    if noise == 0:
        return crafted_b
    g = context.generator
    uniform = torch.rand(strip_Hb.shape[1], len(context.own), generator=g, device=g.device)
    # torch's own normal numbers depend on how many are drawn at once
    normal_Mb: Tensor = torch.special.ndtri(uniform.clamp_(SMALLEST, 1 - SMALLEST)).T.to(strip_Hb)
    return normal_Mb.mul_(noise * sample_std(strip_Hb)).add_(crafted_b)


def largest_accepted(
    accepts: Callable[[float], bool], start: float, tolerance: float = 1e-5
) -> float:
    """The largest accepted factor in [0, 2 start] up to tolerance * start, 0 where none is, for a
    condition that holds up to some factor: the search of Shejwalkar & Houmansadr (NDSS 2021),
    whose steps are halved until they are small."""
    best, factor, step = 0.0, start, start
    while step > tolerance * start:
        step /= 2
        if accepts(factor):
            best, factor = factor, factor + step
        else:
            factor -= step
    return best


def doubling_search(
    score: Callable[[float], float],
    evaluations: int,
    start: float = 0.0,
    step: float = 10.0,
    ratio: float = 0.8,
) -> float:
    """The factor with the best score that was found in so many evaluations: from `start` upwards in
    steps that double while the score rises, then in steps shortened by `ratio` from the best (as
    the optimal attacks of Allouah et al., AISTATS 2023)."""
    best, highest, growing = start, score(start), True
    for _ in range(evaluations - 1):
        now = score(best + step)
        better = now > highest
        if better:
            best, highest = best + step, now
        growing = growing and better
        step *= 2 if growing else ratio
    return best


Statistics = Callable[[Tensor], Tensor]  # (H, b) known updates -> (S, b), the mean first
# (factor, (S, b) statistics) -> (b,) what all attackers send
Candidate = Callable[[float, Tensor], Tensor]


def tune_against_rule(
    statistics: Statistics, num_statistics: int, candidate: Candidate, evaluations: int
) -> Callable[[AttackContext], CraftedUpdates]:
    """An attack whose factor is tuned against the live rule: it makes the distance of the rule's
    update from the mean of the known ones as large as `doubling_search` can. It needs the
    statistics as further rows of memory, and one application of the rule per evaluation. A factor
    at which the global model would not be finite is not taken: it would end the run."""

    def attack(context: AttackContext) -> CraftedUpdates:
        if context.apply is None:
            raise ValueError(
                "an attack that is tuned against the rule needs knowledge of all updates"
            )
        apply, kept_SD = context.apply, context.own.updates.allocate(num_statistics)
        for part, strip_Hb in context.known.column_strips():
            kept_SD[:, part] = statistics(strip_Hb)

        def score(factor: float) -> float:
            reached = euclidean_distance(apply(_along(kept_SD, candidate, factor)), kept_SD[0])
            return reached if reached < float("inf") else -1.0

        return CraftedUpdates(_along(kept_SD, candidate, doubling_search(score, evaluations)))

    return attack


def _along(kept_SD: Tensor, candidate: Candidate, factor: float) -> Strips:
    for first in range(0, kept_SD.shape[1], CHUNK):
        part = slice(first, min(first + CHUNK, kept_SD.shape[1]))
        yield part, candidate(factor, kept_SD[:, part])


def euclidean_distance(one_D: Tensor, other_D: Tensor) -> float:
    """The Euclidean distance of two vectors, summed in float64."""
    pieces = zip(torch.split(one_D, CHUNK), torch.split(other_D, CHUNK), strict=True)
    return math.sqrt(
        sum(float((a.to(torch.float64) - b.to(a.device)).square().sum()) for a, b in pieces)
    )
