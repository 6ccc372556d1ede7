"""FreqFed: by hand, and what it promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fedrobust.strategies.freqfed import freqfed, low_frequencies
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.errors import ConfigError
from tests.helpers.rounds import apply_rule, matrix_round, normal

laws = settings(max_examples=20)
seeds = st.integers(0, 2**32)
# the first four cosines of four points: (1, 1, 1, 1), falling, (1, -1, -1, 1), and the fastest
FLAT, FALLING, WAVE = torch.ones(4), torch.tensor([3.0, 1, -1, -3]), torch.tensor([1.0, -1, -1, 1])


def test_freqfed_by_hand() -> None:
    # of the low half of the frequencies the first two models have (2, 0) and (2, 0), the third
    # (0, > 0): the wave, 100 times as strong, is not looked at
    matrix = torch.stack([FLAT, FLAT + 100 * WAVE, FALLING])
    result = apply_rule(freqfed(), matrix)
    assert result.weights_N.tolist() == [0.5, 0.5, 0]
    torch.testing.assert_close(result.state.parameters, FLAT + 50 * WAVE)
    # in all frequencies the second is alone, and so is everyone: cosines 0.01, 0 and 0
    inner = low_frequencies(matrix_round(matrix), 1.0, 100)
    torch.testing.assert_close((inner @ inner.T)[0, 1], torch.tensor(4.0))


def test_models_are_transformed_not_updates_and_images_weigh() -> None:
    case = matrix_round(torch.stack([-FLAT, WAVE, FALLING]), reference_D=2 * FLAT)
    found = low_frequencies(case, 0.5, 100)
    # flat parts 2 - 1, 2, 2 in the unit vector of length 2
    torch.testing.assert_close(found[:, 0], torch.tensor([2.0, 4, 4]))
    torch.testing.assert_close(found[:2, 1], torch.zeros(2), atol=1e-6, rtol=0)
    counts = torch.tensor([1.0, 3, 5]).double()
    case = replace(case, updates=replace(case.updates, num_examples_N=counts))
    torch.testing.assert_close(
        freqfed().rule(case).weights_N, torch.tensor([0.25, 0.75, 0]).double()
    )


@laws
@given(seeds, st.integers(1, 30), st.integers(1, 40))
def test_coefficients_are_those_of_the_cosine_transform(seed: int, columns: int, most: int) -> None:
    """Oracle: the definition, sum_j x_j cos(pi k (2 j + 1) / 2 D), scaled to an orthonormal map."""
    matrix, reference = normal(seed, 3, columns), normal(seed + 1, columns)
    places = np.arange(columns)
    basis = np.cos(np.pi * np.outer(places, 2 * places + 1) / (2 * columns))
    basis *= np.where(places == 0, 1 / columns, 2 / columns)[:, None] ** 0.5
    wanted = (matrix + reference).double().numpy() @ basis.T
    found = low_frequencies(matrix_round(matrix, reference, seed=seed), 1.0, most).numpy()
    assert found.shape == (3, min(columns, most))
    for column in found.T:  # each is one of them
        assert np.abs(wanted - column[:, None]).max(axis=0).min() < 1e-4
    if most >= columns:
        np.testing.assert_allclose(found, wanted, atol=1e-4)


@laws
@given(seeds, st.floats(5, 1e12))
def test_a_far_minority_is_left_out(seed: int, far: float) -> None:
    slow = torch.linspace(1, 2, 30)
    matrix = torch.cat([slow + 0.1 * normal(seed, 6, 30), far * normal(seed + 1, 4, 30)])
    for rule in (freqfed(), freqfed(coefficients=8)):
        weights = apply_rule(rule, matrix, reference_D=torch.ones(30)).weights_N
        assert (weights[:6] > 0).sum() >= 4


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: freqfed(low_share=0), "strategy.low_share=0"),
        (lambda: freqfed(coefficients=0), "strategy.coefficients=0"),
    ],
)
def test_wrong_settings_are_named(make: object, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make()  # type: ignore[operator]
