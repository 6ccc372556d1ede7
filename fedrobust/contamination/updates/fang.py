"""Local model poisoning made for one rule: push every parameter against the way it would go, unseen
by Krum or by the trimmed mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from fedrobust.contamination.base import AttackContext, Contamination, CraftedUpdates, Strips
from fedrobust.contamination.updates.collusion import Knowledge, make_collusion, sample_std
from fedrobust.utils.validation import check_settings

SMALLEST = 1e-5  # of the first length of a step: below it the search has failed


@check_settings("contamination")
def fang(
    *,
    rule: Literal["krum", "trimmed_mean"] = "trimmed_mean",
    stretch: Annotated[float, Field(gt=1)] = 2.0,
    knowledge: Knowledge = "omniscient",
) -> Contamination:
    """The directed deviation attacks: every parameter is pushed against the way it would go. s: the
    signs of the mean of the known updates.

    Against Krum (section 3.2) all attackers send -lambda * s with the largest lambda, halved from
    the paper's upper bound, at which Krum would choose it. Against the trimmed mean (section 3.3,
    also against the median) every attacker draws each parameter of its model anew, where s > 0 from
    below the smallest honest one, else from above the largest: up to `stretch` times as far from 0.
    With knowledge=own, Krum is tried on the attackers' own updates, and the trimmed mean's values
    lie 3 to 4 standard deviations from the mean of those.

    Args:
        rule: the rule it is made for.
        stretch: trimmed_mean with omniscient: how far beyond the honest values, as a multiple of
            them (the paper's b).
        knowledge: omniscient: of all honest updates; own: of the poisoned clients' only.

    Returns:
        A contamination of clients that work together.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Fang, Cao, Jia, Gong, USENIX Security 2020.

    Needs:
        collusion: attackers know all honest updates, or with knowledge=own each other's
    """

    def attack(context: AttackContext) -> CraftedUpdates:
        if rule == "krum":
            return CraftedUpdates(_steps(context, -krum_step(context)))
        return CraftedUpdates(_partial(context) if knowledge == "own" else _full(context, stretch))

    return make_collusion("fang", attack, knowledge)


def _steps(context: AttackContext, step: float) -> Strips:
    return (
        (part, step * strip_Hb.mean(dim=0).sign())
        for part, strip_Hb in context.known.column_strips()
    )


def krum_step(context: AttackContext) -> float:
    """The lambda of the attack on Krum (section 3.2, theorem 1 for its bound), all distances from
    inner products.

    Where too few honest updates are known for the paper's numbers of neighbours, there is at least
    one.
    """
    gram_HH, along_H, moved = _signs(context)
    squares_H, honest, attackers = gram_HH.diagonal(), len(gram_HH), len(context.own)
    neighbours = max(1, honest - 2)
    near_HH = (squares_H[:, None] + squares_H - 2 * gram_HH).clamp(min=0).fill_diagonal_(torch.inf)
    nearest_H = near_HH.sort(dim=1).values[:, : min(neighbours, honest - 1)].sum(dim=1)
    step = float(
        (nearest_H.min() / (max(1, honest - attackers - 1) * moved)).sqrt()
        + (squares_H.max() / moved).sqrt()
    )
    first = step
    while step > SMALLEST * first:
        to_H = (squares_H + 2 * step * along_H + step**2 * moved).clamp(min=0)  # |u + lambda s|^2
        if _krum_takes_it(near_HH, to_H, attackers, neighbours):
            return step
        step /= 2
    return step


def _signs(context: AttackContext) -> tuple[Tensor, Tensor, float]:
    """Inner products of the known updates with each other and with s, and |s|^2."""
    gram_HH = torch.zeros(len(context.known), len(context.known), dtype=torch.float64)
    along_H, moved = torch.zeros(len(context.known), dtype=torch.float64), 0.0
    for _, strip_Hb in context.known.column_strips():
        wide_Hb, signs_b = strip_Hb.to(torch.float64), strip_Hb.mean(dim=0).sign().to(torch.float64)
        gram_HH += (wide_Hb @ wide_Hb.T).cpu()
        along_H += (wide_Hb @ signs_b).cpu()
        moved += float(signs_b.abs().sum())
    return gram_HH, along_H, max(1.0, moved)


def _krum_takes_it(near_HH: Tensor, to_H: Tensor, attackers: int, neighbours: int) -> bool:
    """Whether the attackers' one update has the smallest Krum score among the honest ones and as
    many copies of it."""
    crafted = (
        torch.cat([torch.zeros(attackers - 1, dtype=torch.float64), to_H])
        .sort()
        .values[:neighbours]
        .sum()
    )
    honest_H = (
        torch.cat([near_HH, to_H[:, None].expand(-1, attackers)], dim=1)
        .sort(dim=1)
        .values[:, :neighbours]
        .sum(dim=1)
    )
    return bool(crafted <= honest_H.min())


def _full(context: AttackContext, stretch: float) -> Iterator[tuple[slice, Tensor]]:
    """Values beyond those of all honest models, as updates: at most |extreme| (b - 1) away from 0,
    or |extreme| (1 - 1 / b) towards it."""
    for part, strip_Hb in context.known.column_strips():
        reference_b = context.reference.parameters[part].to(strip_Hb)
        low_b, high_b, up_b = strip_Hb.amin(dim=0), strip_Hb.amax(dim=0), strip_Hb.mean(dim=0) > 0
        extreme_b = reference_b + torch.where(up_b, low_b, high_b)
        outwards_b = (extreme_b < 0) == up_b
        room_b = extreme_b.abs() * torch.where(outwards_b, stretch - 1, 1 - 1 / stretch)
        away_Mb = _uniform(context, strip_Hb) * room_b
        yield part, torch.where(up_b, low_b - away_Mb, high_b + away_Mb)


def _partial(context: AttackContext) -> Iterator[tuple[slice, Tensor]]:
    """Values 3 to 4 standard deviations from the mean, against its sign."""
    for part, strip_Hb in context.known.column_strips():
        mean_b = strip_Hb.mean(dim=0)
        away_Mb = (3 + _uniform(context, strip_Hb)) * sample_std(strip_Hb)
        yield part, torch.where(mean_b > 0, mean_b - away_Mb, mean_b + away_Mb)


def _uniform(context: AttackContext, strip_Hb: Tensor) -> Tensor:
    """(M, b) numbers in [0, 1), another for each attacker; drawn column by column, so that the
    width of strips does not matter."""
    g: Generator = context.generator
    return torch.rand(strip_Hb.shape[1], len(context.own), generator=g, device=g.device).T.to(
        strip_Hb
    )
