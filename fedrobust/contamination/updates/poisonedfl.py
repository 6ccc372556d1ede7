"""PoisonedFL: all attackers push the global model into one random direction, the same in all
rounds, without a look at honest updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from scipy.stats import binom
from torch import Generator, Tensor

from fedrobust.contamination.base import AttackContext, Contamination, CraftedUpdates, Strips
from fedrobust.contamination.updates.collusion import CHUNK, make_collusion
from fedrobust.utils.validation import Positive, PositiveCount, check_settings

LIKELY = 0.01  # p-value above which the attack counts as without effect
LOWEST = 0.5  # the factor is not lowered below it
MOST_SEEDS = 2**62


@check_settings("contamination")
def poisonedfl(
    *,
    factor: Positive = 8.0,
    shrink: Annotated[float, Field(gt=0, le=1)] = 0.7,
    period: PositiveCount = 50,
) -> Contamination:
    """PoisonedFL: every attacker's update is a magnitude times the same random signs in all rounds,
    so that what gets through adds up over rounds; the magnitude follows how the global model moved.

    With the global model's last step g, what the attackers sent then m, and the signs s, all send
    lambda v * s, where v is |g - (|g| / |m|) m| at length 1 (the others' part of the step) and
    lambda = c |g|. After every `period` rounds the signs of the global model's whole step since
    the test before are compared with s: where random signs would agree as well with a probability
    above 1 %, the attack was filtered out and c is multiplied by `shrink`, down to 0.5. Nothing is
    used but the global models that attackers receive.

    What the paper leaves open, and what is done here: in the first round nothing has moved, and
    attackers send what they received; coordinates that did not move at all are not counted in the
    test; where attackers paused (`schedule`), g is the step over all rounds since.

    Args:
        factor: the first c: length of an attacker's update, in lengths of the global model's last
            step.
        shrink: by what c is multiplied where the attack had no effect.
        period: rounds after which its effect is tested; the paper's 50 are for thousands of rounds.

    Returns:
        A contamination of clients that work together.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Xie, Fang, Gong, CVPR 2025, "Model poisoning attacks to federated learning via multi-round
        consistency" (arXiv 2404.15611). The numbers of the test (0.7, 50 rounds, 0.01, 0.5) are
        those of the authors' program; its own first factor is a parameter. What is sent agrees with
        that program to 1e-9 of the largest value on random steps of 139,960 values, and so does
        whether c is lowered, in six tests of steps in which every value moved.

    Needs:
        collusion: attackers remember the global models that they received
    """

    def attack(context: AttackContext) -> CraftedUpdates:
        reference_D = context.reference.parameters
        memory = _remember_seed(context)
        if "previous" not in memory:
            known = {"factor": float(factor), "since": 0, "start": reference_D.clone()}
            unmoved_D = torch.zeros_like(reference_D)
            memory |= known | {"previous": reference_D.clone(), "sent": unmoved_D}
            return CraftedUpdates(_pieces(unmoved_D), memory)
        signs_D = draw_signs(len(reference_D), memory["seed"])
        memory |= _test_effect(memory, reference_D, signs_D, shrink=shrink, period=period)
        sent_D = push(reference_D - memory["previous"], memory["sent"], signs_D, memory["factor"])
        memory |= {"previous": reference_D.clone(), "sent": sent_D}
        return CraftedUpdates(_pieces(sent_D), memory)

    return make_collusion("poisonedfl", attack)


def _remember_seed(context: AttackContext) -> dict[str, Any]:
    memory = dict(context.memory)
    if "seed" not in memory:
        drawn = torch.randint(MOST_SEEDS, (1,), generator=context.generator, dtype=torch.int64)
        memory["seed"] = int(drawn)
    return memory


def draw_signs(count: int, seed: int) -> Tensor:
    """(count,) the attackers' signs, -1 or 1 with equal probability."""
    drawn = torch.randint(2, (count,), generator=Generator().manual_seed(seed), dtype=torch.int8)
    return drawn.mul_(2).sub_(1)


def push(step_D: Tensor, sent_D: Tensor, signs_D: Tensor, factor: float) -> Tensor:
    """(D,) what the attackers send: lambda v * s.

    Args:
        step_D: last step of the global model.
        sent_D: what they sent for it.
        signs_D: their signs.
        factor: c.
    """
    length, sent = (
        float(torch.linalg.vector_norm(one, dtype=torch.float64)) for one in (step_D, sent_D)
    )
    others_D = (step_D - sent_D * (length / sent)) if sent > 0 else step_D.clone()
    others_D.abs_()
    rest = float(torch.linalg.vector_norm(others_D, dtype=torch.float64))
    return others_D.mul_(factor * length / rest if rest > 0 else 0.0).mul_(signs_D.to(others_D))


def _test_effect(
    memory: Mapping[str, Any],
    reference_D: Tensor,
    signs_D: Tensor,
    *,
    shrink: float,
    period: int,
) -> dict[str, Any]:
    """The factor and the place of the next test."""
    since = int(memory["since"]) + 1
    if since < period:
        return {"since": since}
    factor = float(memory["factor"])
    lower = factor * shrink
    if lower >= LOWEST and chance(reference_D - memory["start"], signs_D) > LIKELY:
        factor = lower
    return {"since": 0, "start": reference_D.clone(), "factor": factor}


def chance(step_D: Tensor, signs_D: Tensor) -> float:
    """The probability that as many of the step's signs agree with random ones, of the coordinates
    that moved: the p-value of the paper's test."""
    moved = int((step_D != 0).sum())
    agreeing = int((step_D.sign() == signs_D.to(step_D)).sum())
    return float(binom.sf(agreeing - 1, moved, 0.5))


def _pieces(vector_D: Tensor) -> Strips:
    def pieces() -> Iterator[tuple[slice, Tensor]]:
        for first in range(0, len(vector_D), CHUNK):
            part = slice(first, min(first + CHUNK, len(vector_D)))
            yield part, vector_D[part]

    return pieces()
