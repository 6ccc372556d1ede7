"""Updates as whole numbers: by hand, at the bound of what fits, and how far rounding goes."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.privacy.secure.fixed_point import (
    BITS,
    MOST_CLIENTS,
    MOST_WEIGHT,
    decode,
    encode,
    error,
    scale,
)

CLIPS = st.floats(1e-6, 1e6)
WEIGHTS = st.integers(1, MOST_WEIGHT)


def clipped(seed: int, clip: float, size: int = 50) -> torch.Tensor:
    """Coordinates of all sizes, as those of a network are: of the small ones the last bits are
    rounded away."""
    g = torch.Generator().manual_seed(seed)
    update = torch.randn(size, generator=g) * 10.0 ** (-12 * torch.rand(size, generator=g))
    return update * (clip / float(update.norm()))


def test_by_hand() -> None:
    # 0.375 * 3 * 8 = 9; -0.5 * 3 * 8 = -12; 0.1 * 3 * 8 = 2.4 -> 2; -0.24 * 3 * 8 = -5.76 -> -6;
    # the weight 3
    assert encode(torch.tensor([0.375, -0.5, 0.1, -0.24]), 3, 8.0).tolist() == [9, -12, 2, -6, 3]
    # (9, -12, 2) + (7, 4, 0) of weights 3 and 1, over 4 * 8: (0.5, -0.25, 0.0625)
    mean_D, weight = decode(torch.tensor([16, -8, 2, 4]), 8.0)
    assert (mean_D.tolist(), weight) == ([0.5, -0.25, 0.0625], 4)


@settings(max_examples=40)
@given(CLIPS, WEIGHTS)
def test_the_scale_is_a_power_of_two_under_which_the_largest_coordinate_has_51_or_52_bits(
    clip: float, most: int
) -> None:
    s = scale(clip, most)
    assert math.frexp(s)[0] == 0.5
    assert 2 ** (BITS - 1) <= Fraction(clip * most) * Fraction(s) < 2**BITS


@pytest.mark.parametrize("clip", [1.0, 0.999999, 1e-3, 7.0, 2.0**10 * (1 - 2**-24)])
@pytest.mark.parametrize("most", [1, 1_000_000, MOST_WEIGHT])
def test_the_most_clients_with_the_largest_updates_and_weights_do_not_overflow(
    clip: float, most: int
) -> None:
    s = scale(clip, most)
    # what float32 rounding may make of a clipped coordinate
    longest = float(torch.tensor(clip * (1 + 1e-6)))
    one = encode(torch.tensor([longest, -longest]), most, s)
    exact = [MOST_CLIENTS * value for value in one.tolist()]  # of Python's integers
    assert max(map(abs, exact)) < 2**63
    total = torch.zeros_like(one)
    for _ in range(MOST_CLIENTS):
        total += one
    assert total.tolist() == exact
    mean_D, weight = decode(total, s)
    assert weight == MOST_CLIENTS * most
    assert mean_D.tolist() == pytest.approx([longest, -longest], rel=1e-7)


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 1_000_000), min_size=1, max_size=12), CLIPS)
def test_the_mean_is_off_by_no_more_than_it_is_told(
    seed: int, weights: list[int], clip: float
) -> None:
    s, size = scale(clip, 1_000_000), 20
    updates = [clipped(seed + n, clip, size) for n in range(len(weights))]
    encoded = [encode(update, weight, s) for update, weight in zip(updates, weights, strict=True)]
    total, bound = (
        torch.stack(encoded).sum(0),
        Fraction(len(weights), 2 * sum(weights)) / Fraction(s),
    )
    assert error(len(weights), sum(weights), s) == pytest.approx(float(bound))
    for column in range(size):
        exact = sum(
            Fraction(float(u[column])) * w for u, w in zip(updates, weights, strict=True)
        ) / sum(weights)
        off = abs(Fraction(int(total[column])) / Fraction(s) / sum(weights) - exact)
        assert off <= bound
    mean_D, weight = decode(total, s)
    assert weight == sum(weights)
    mean = (
        torch.stack([u.double() * w for u, w in zip(updates, weights, strict=True)]).sum(0) / weight
    )
    last_bit = 2.0**-24 * float(mean.abs().max())  # float32 of the result
    assert float((mean_D.double() - mean).abs().max()) <= (float(bound) + last_bit) * (1 + 1e-9)
    assert error(len(weights), weight, s) <= 1_000_000 * clip * 2.0**-BITS


def test_the_order_of_the_sum_does_not_matter_even_where_it_runs_over() -> None:
    g = torch.Generator().manual_seed(0)
    masks = torch.randint(-(2**63), 2**63 - 1, (100, 30), generator=g)
    forwards, backwards = masks[0].clone(), masks[-1].clone()
    for n in range(1, 100):
        forwards += masks[n]
        backwards += masks[-1 - n]
    assert torch.equal(forwards, backwards)


def test_long_vectors_go_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    update = clipped(1, 1.0, 1000)
    whole = encode(update, 7, scale(1.0, 10))
    monkeypatch.setattr("fedrobust.privacy.secure.fixed_point.CHUNK", 64)
    assert torch.equal(encode(update, 7, scale(1.0, 10)), whole)
    assert torch.allclose(decode(whole, scale(1.0, 10))[0], update, rtol=1e-6)
