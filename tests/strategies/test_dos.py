"""DOS and its COPOD: by hand, against pyod's values, and what they promise."""

from __future__ import annotations

import math

import pytest
import torch
from fedrobust.strategies.dos import copod, dos, euclidean
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from fedrobust.aggregation.updates import Updates
from fedrobust.errors import ConfigError
from tests.helpers.rounds import apply_rule, normal

laws = settings(max_examples=25)
seeds = st.integers(0, 2**32)


def test_copod_by_hand() -> None:
    # first column, skewed to the right: shares at least as large 1, 3/4, 2/4, 1/4; means of both
    # tails (ln 4)/2, (ln 2 + ln 4/3)/2, the same, (ln 4)/2: .6931 .4904 .6931 1.3863
    # second column, skewed to the left: shares at most as large 1, 1, 2/4, 1/4; means of both
    # (ln 2)/2, (ln 2)/2, (ln 2 + ln 4/3)/2, (ln 4)/2: .3466 .3466 .6931 1.3863
    found = copod(torch.tensor([[1.0, 2], [2, 2], [4, 1], [9, 0]]))
    wanted = torch.tensor([1.039721, 0.836988, 1.386294, 2.772589]).double()
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_copod_agrees_with_pyod() -> None:
    """Values of pyod 3.6.7, COPOD().fit(matrix).decision_scores_."""
    matrix = torch.tensor([[0.0, 5, 6], [5, 0, 2], [6, 2, 0]])
    wanted = [3.295836866004329, 1.3602363605503833, 1.5040773967762742]
    assert copod(matrix).tolist() == pytest.approx(wanted, abs=1e-12)


def test_without_skewness_both_tails_are_added() -> None:
    # 0, 1, 2: shares 1/3, 2/3, 1 and 1, 2/3, 1/3
    found = copod(torch.tensor([[0.0], [1], [2]]))
    assert found.tolist() == pytest.approx([math.log(3), 2 * math.log(1.5), math.log(3)])


@laws
@given(seeds, st.integers(1, 9), st.integers(1, 6))
def test_copod_looks_at_ranks_in_every_column(seed: int, n: int, columns: int) -> None:
    matrix = normal(seed, n, columns).double()
    found, order = copod(matrix), torch.randperm(n, generator=Generator().manual_seed(seed))
    assert (found >= 0).all()
    torch.testing.assert_close(copod(matrix[order]), found[order])
    torch.testing.assert_close(copod(3 * matrix - 2), found)
    torch.testing.assert_close(copod(matrix[:1].expand(n, columns)), torch.zeros(n).double())


def test_equal_updates_are_at_distance_0() -> None:
    rows = 1e3 + normal(0, 3, 500)
    found = euclidean(Updates.of(rows[[0, 1, 0, 2]]).gram())
    assert found[0, 2] == found[2, 0] == 0
    assert found[0].tolist() == found[2].tolist()[2::-1] + found[2].tolist()[3:]


@laws
@given(seeds, st.floats(20, 1e12))
def test_a_far_minority_gets_next_to_nothing(seed: int, far: float) -> None:
    # models around (1, ..., 1)
    matrix = torch.cat([0.1 * normal(seed, 7, 8), -far * torch.ones(3, 8) + normal(seed + 1, 3, 8)])
    result = apply_rule(dos(), matrix, reference_D=torch.ones(8))
    assert result.weights_N[7:].sum() < 0.05
    scores = torch.tensor(result.extras["outlier_score"], dtype=torch.float64)
    torch.testing.assert_close(result.weights_N, torch.softmax(-scores, 0), atol=1e-6, rtol=0)


def test_less_sharpness_gives_more_even_weights() -> None:
    matrix = normal(3, 6, 5)
    sharp, even = (apply_rule(dos(one), matrix).weights_N for one in (1.0, 0.01))
    assert sharp.max() > even.max()
    torch.testing.assert_close(even, torch.full((6,), 1 / 6).double(), atol=0.05, rtol=0)
    with pytest.raises(ConfigError, match=r"strategy\.sharpness=0"):
        dos(0)
