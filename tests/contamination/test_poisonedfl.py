"""PoisonedFL by hand: the first rounds, the magnitude, the test of its effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fedrobust.strategies.fedavg import fedavg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from torch import Generator, Tensor

from fedrobust.aggregation.updates import Updates
from fedrobust.contamination.updates.poisonedfl import chance, draw_signs, poisonedfl, push
from fedrobust.runtime.server.collusion import apply_collusion
from fedrobust.state import State
from tests.helpers.attacks import normal, round_of


def test_the_magnitude_golden() -> None:
    # |g| = 5, |m| = 1: g - 5 m = (3, -1), its length sqrt(10); c |g| = 10
    step, sent, signs = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0]), torch.tensor([-1, 1])
    expected = [-10 * 3 / 10**0.5, 10 * 1 / 10**0.5]
    assert push(step, sent, signs, 2.0).tolist() == pytest.approx(expected)
    # nothing was sent before: the whole step counts
    assert push(step, torch.zeros(2), signs, 2.0).tolist() == pytest.approx([-6.0, 8.0])
    # a model that stands still gives no length
    assert push(torch.zeros(2), sent, signs, 2.0).tolist() == [0, 0]
    # a step that was theirs alone leaves nothing
    assert push(3 * sent, sent, signs, 2.0).tolist() == [0, 0]


def test_the_chance_golden() -> None:
    # three of four moved coordinates agree: (4 + 1) of 16 outcomes
    step = torch.tensor([1.0, -2.0, 3.0, -4.0, 0.0])
    assert chance(step, torch.tensor([1, -1, 1, 1, 1])) == pytest.approx(5 / 16)
    assert chance(torch.zeros(3), torch.ones(3)) == 1.0


@settings(max_examples=20)
@given(seed=st.integers(0, 2**62), count=st.integers(1, 400))
def test_signs_are_the_same_in_all_rounds_and_fair(seed: int, count: int) -> None:
    signs = draw_signs(count, seed)
    assert torch.equal(signs, draw_signs(count, seed))
    assert signs.abs().eq(1).all()
    assert binom.cdf(int((signs == 1).sum()), count, 0.5) > 1e-9


def rounds(steps: list[Tensor], **given: Any) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """What attacker 2 of 3 sends while the global model makes these steps, and remembers."""
    collusion, memory = poisonedfl(**given).collude, {}
    assert collusion is not None
    reference, sent, known = torch.zeros(len(steps[0])), [], []
    for number, step in enumerate(steps, 1):
        updates = Updates.of(normal(number, 3, len(step)))
        round = replace(
            round_of(updates), number=number, reference=State(reference, torch.zeros(0))
        )
        g = Generator().manual_seed(number)
        memory = dict(
            apply_collusion(collusion, {2}, round, rule=fedavg().rule, generator=g, memory=memory)
        )
        known.append(memory)
        sent.append(updates.matrix_ND[2].clone())
        reference = reference + step
    return sent, known


def test_the_first_rounds() -> None:
    step = torch.tensor([3.0, 4.0])
    sent, known = rounds([step, step, step], factor=2.0)
    signs = draw_signs(2, known[0]["seed"])
    assert sent[0].tolist() == [0, 0]
    assert sent[1].tolist() == pytest.approx((2 * step * signs).tolist())
    assert torch.equal(sent[2], push(step, sent[1], signs, 2.0))
    assert {one["seed"] for one in known} == {known[0]["seed"]}


def test_what_is_filtered_out_becomes_shorter_down_to_a_half() -> None:
    against = -draw_signs(200, rounds([torch.ones(200)])[1][0]["seed"]).float()
    factors = [one["factor"] for one in rounds([against] * 12, factor=1.0, period=2)[1]]
    # tested in rounds 3, 5, ...: 1, 0.7; 0.49 is below a half
    assert factors == pytest.approx([1.0, 1.0] + [0.7] * 10)
    along = [one["factor"] for one in rounds([-against] * 6, factor=1.0, period=2)[1]]
    assert along == [1.0] * 6
