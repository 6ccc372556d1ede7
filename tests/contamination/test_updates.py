"""Contaminations of what a client sends: values worked by hand."""

from __future__ import annotations

from typing import Any

import byzfl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.contamination.updates.independent import (
    free_rider,
    gaussian_update,
    not_finite,
    scaling,
    sign_flip,
)
from fedrobust.errors import ConfigError
from fedrobust.state import State
from fedrobust.utils.seeding import generator


def state(values: list[float], buffers: float = 0.0) -> State:
    return State(torch.tensor(values), torch.tensor([buffers]))


def test_sign_flip_golden() -> None:
    # update (2, -1) on the reference (1, 1); reversed and doubled: (1 - 4, 1 + 2)
    sent = sign_flip(scale=2.0).update(state([3.0, 0.0], 7.0), state([1.0, 1.0], 5.0), generator(0))
    assert sent.parameters.tolist() == [-3.0, 3.0]
    assert sent.buffers.tolist() == [7.0]


@settings(max_examples=30)
@given(values=st.lists(st.integers(-9, 9), min_size=1, max_size=6), seed=st.integers(0, 9))
def test_sign_flip_twice_is_nothing(values: list[int], seed: int) -> None:
    trained, reference = state([float(v) for v in values]), state([float(seed)] * len(values))
    twice = sign_flip().update(
        sign_flip().update(trained, reference, generator(0)), reference, generator(0)
    )
    assert torch.equal(twice.parameters, trained.parameters)


def test_sign_flip_of_scale_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"contamination\.scale=0: must be greater than 0"):
        sign_flip(scale=0)


def test_relative_noise_has_the_length_of_the_update() -> None:
    # an update of length 3: half as long a noise, 1.5, up to 1 / sqrt(2 D) = .5 % for D = 20000
    reference = State(torch.zeros(20_000), torch.zeros(1))
    trained = State(torch.full((20_000,), 3 / 20_000**0.5), torch.ones(1))
    sent = gaussian_update(std=0.5).update(trained, reference, generator(0))
    assert float((sent.parameters - trained.parameters).norm()) == pytest.approx(1.5, rel=0.025)
    assert sent.buffers is trained.buffers


def test_absolute_noise_has_its_own_deviation() -> None:
    trained = State(torch.full((20_000,), 5.0), torch.zeros(1))
    sent = gaussian_update(std=0.5, relative=False).update(trained, trained, generator(0))
    assert float(sent.parameters.std()) == pytest.approx(0.5, rel=0.025)
    # five standard errors of .5 / sqrt(20000)
    assert float(sent.parameters.mean()) == pytest.approx(5.0, abs=0.018)


def test_no_update_no_relative_noise() -> None:
    trained = state([1.0, 2.0])
    assert torch.equal(
        gaussian_update().update(trained, trained, generator(0)).parameters, trained.parameters
    )


def test_a_client_alone_flips_as_byzfl_flips_the_mean() -> None:
    trained, reference = (
        State(torch.randn(30, generator=generator(seed)), torch.zeros(0)) for seed in (1, 2)
    )
    sent = sign_flip().update(trained, reference, generator(0))
    expected = byzfl.SignFlipping()((trained.parameters - reference.parameters)[None])
    torch.testing.assert_close(sent.parameters - reference.parameters, expected.float())


def test_scaling_golden() -> None:
    trained, reference = state([3.0, 0.0], 7.0), state([1.0, 1.0], 5.0)
    sent = scaling(factor=4.0).update(trained, reference, generator(0))  # update (2, -1) four times
    assert (sent.parameters.tolist(), sent.buffers.tolist()) == ([9, -3], [7])
    assert scaling(factor=1.0).update(trained, reference, generator(0)) is trained
    assert scaling(factor=0.0).update(trained, reference, generator(0)).parameters.tolist() == [
        1,
        1,
    ]


def test_a_free_rider_sends_back_what_it_got() -> None:
    trained, reference = state([3.0, 0.0], 7.0), state([1.0, 1.0], 5.0)
    assert free_rider().update(trained, reference, generator(0)) is reference
    wide = State(torch.full((20_000,), 3.0), torch.zeros(1))
    sent = free_rider(noise=0.5).update(wide, wide, generator(0)).parameters
    assert float(sent.std()) == pytest.approx(0.5, rel=0.025)
    # five standard errors of .5 / sqrt(20000)
    assert float(sent.mean()) == pytest.approx(3.0, abs=0.018)


@pytest.mark.parametrize(
    ("value", "is_it"), [("nan", torch.isnan), ("inf", torch.isposinf), ("-inf", torch.isneginf)]
)
def test_an_exact_share_is_not_finite(value: str, is_it: Any) -> None:
    given_state = State(torch.ones(10), torch.ones(2))
    sent = not_finite(value=value, rate=0.3).update(given_state, given_state, generator(0))
    assert int(is_it(sent.parameters).sum()) == 3
    assert int((sent.parameters == 1).sum()) == 7
    assert torch.equal(given_state.parameters, torch.ones(10))
