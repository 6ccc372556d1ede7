"""Simple rules: 3 x 2 examples by hand, and ByzFL as the oracle."""

from __future__ import annotations

from typing import Any

import byzfl
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedrobust.errors import ConfigError
from fedrobust.types import Aggregate, Round, ServerData, State, Strategy
from fedrobust.vectors import Updates, squared_distances
from strategies.fedavg import fedavg
from strategies.krum import krum, krum_scores, multi_krum
from strategies.median import median
from strategies.trimmed_mean import trimmed_mean

SMALL = torch.tensor([[0.0, 3.0], [1.0, 1.0], [5.0, 5.0]])


def apply(strategy: Strategy, matrix_ND: Tensor, counts: list[int] | None = None) -> Aggregate:
    updates = Updates.of(matrix_ND, None if counts is None else torch.tensor(counts))
    reference = State(torch.zeros(matrix_ND.shape[1]), torch.zeros(0))
    return strategy.rule(Round(1, reference, updates, ServerData(nn.Identity()), torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("strategy", "update", "weights"),
    [
        # 1/4 (0, 3) + 1/4 (1, 1) + 2/4 (5, 5) = (11/4, 14/4)
        (fedavg(), [2.75, 3.5], [0.25, 0.25, 0.5]),
        # (0 + 1 + 5)/3 = 2, (3 + 1 + 5)/3 = 3
        (fedavg("uniform"), [2, 3], [1 / 3, 1 / 3, 1 / 3]),
        # columns (0, 1, 5) and (3, 1, 5): the middle ones are client 1's and client 0's
        (median(), [1, 3], [0.5, 0.5, 0]),
        (trimmed_mean(1), [1, 3], [0.5, 0.5, 0]),
        # f = 0: nearest N - 2 = 1 other. Squared distances 01: 1 + 4 = 5, 02: 25 + 4 = 29, 12: 16 + 16 = 32,
        # scores 5, 5, 29: the tie goes to client 0
        (krum(0), [0, 3], [1, 0, 0]),
        (multi_krum(0, m=2), [0.5, 2], [0.5, 0.5, 0]),
        (multi_krum(0), [2, 3], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_three_clients_two_parameters(strategy: Strategy, update: list[float], weights: list[float]) -> None:
    result = apply(strategy, SMALL, [1, 1, 2])
    torch.testing.assert_close(result.state.parameters, torch.tensor(update, dtype=torch.float32))
    torch.testing.assert_close(result.weights_N, torch.tensor(weights, dtype=torch.float64))


def test_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    # column 0: 0 1 3 9 -> (1 + 3)/2 = 2, halves to clients 2 and 0; column 1: 4 4 4 7 -> 4, shared by clients 0, 1, 3
    result = apply(median(), torch.tensor([[3.0, 4], [9, 4], [1, 7], [0, 4]]))
    assert result.state.parameters.tolist() == [2, 4]
    expected = torch.tensor([1 / 2 + 1 / 3, 1 / 3, 1 / 2, 1 / 3], dtype=torch.float64) / 2
    torch.testing.assert_close(result.weights_N, expected)


def test_trimmed_mean_shares_the_edge_of_the_kept_range() -> None:
    # sorted 1 1 2 8 8, f = 1 keeps 1 2 8 (mean 11/3): one of the two 1s, one of the two 8s
    result = apply(trimmed_mean(1), torch.tensor([[1.0], [8], [2], [1], [8]]))
    torch.testing.assert_close(result.state.parameters, torch.tensor([11 / 3]))
    torch.testing.assert_close(result.weights_N, torch.tensor([1, 1, 2, 1, 1], dtype=torch.float64) / 6)


def test_krum_scores_by_hand() -> None:
    # points 0 1 3 7 20 on a line, f = 1: the 5 - 1 - 2 = 2 nearest others
    # 0: 1 + 9; 1: 1 + 4; 3: 4 + 9 (1 and 0; 7 is 16 away); 7: 16 + 36; 20: 169 + 289
    points = torch.tensor([[0.0], [1], [3], [7], [20]])
    assert krum_scores(squared_distances(Updates.of(points).gram()), 1).tolist() == [10, 5, 13, 52, 458]
    assert apply(krum(1), points).state.parameters.tolist() == [1]
    assert apply(multi_krum(1), points).state.parameters.tolist() == [2.75]  # (0 + 1 + 3 + 7)/4


@pytest.mark.parametrize("strategy", [krum(1), multi_krum(1)])
@pytest.mark.parametrize("huge", [torch.inf, 3e38])
def test_krum_survives_and_leaves_out_an_infinite_update(strategy: Strategy, huge: float) -> None:
    matrix = torch.tensor([[1.0, 0], [1, 1], [huge, -huge], [0, 1], [0, 0]])
    result = apply(strategy, matrix)
    assert result.weights_N[2] == 0
    assert result.state.parameters.isfinite().all()


def test_the_least_number_of_clients_follows_the_papers() -> None:
    assert [s.min_clients for s in (fedavg(), median(), trimmed_mean(2), krum(2), multi_krum(2))] == [1, 1, 5, 7, 7]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: fedavg("size"), "strategy.weighting=size"),
        (lambda: trimmed_mean(-1), "strategy.f=-1"),
        (lambda: trimmed_mean("2"), "strategy.f=2"),  # type: ignore[arg-type]
        (lambda: krum(1.5), "strategy.f=1.5"),  # type: ignore[arg-type]
        (lambda: multi_krum(1, m=0), "strategy.m=0"),
        (lambda: apply(multi_krum(0, m=4), SMALL), "strategy.m=4"),
    ],
)
def test_wrong_settings_are_named(make: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make()


@st.composite
def matrices(draw: st.DrawFn, least: int = 1) -> np.ndarray:
    """(N, D) float32 of small integers: sums and distances are exact, ties are frequent."""
    n, d = draw(st.integers(least, 9)), draw(st.integers(1, 5))
    values = draw(st.lists(st.integers(-50, 50), min_size=n * d, max_size=n * d))
    return np.array(values, dtype=np.float32).reshape(n, d)


def update(strategy: Strategy, matrix: np.ndarray) -> np.ndarray:
    return apply(strategy, torch.from_numpy(matrix)).state.parameters.numpy()


@settings(deadline=None, max_examples=40)
@given(matrices())
def test_average_and_median_agree_with_byzfl(matrix: np.ndarray) -> None:
    np.testing.assert_allclose(update(fedavg("uniform"), matrix), byzfl.Average()(matrix), atol=1e-4)
    np.testing.assert_allclose(update(median(), matrix), byzfl.Median()(matrix), atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(matrices(least=3), st.integers(0, 4))
def test_trimmed_mean_agrees_with_byzfl(matrix: np.ndarray, f: int) -> None:
    assume(2 * f < len(matrix))
    np.testing.assert_allclose(update(trimmed_mean(f), matrix), byzfl.TrMean(f)(matrix), atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.integers(3, 9), st.integers(0, 3), st.integers(0, 2**32))
def test_krum_agrees_with_byzfl(n: int, f: int, seed: int) -> None:
    # ByzFL sums over N - f - 1 others, the paper over N - f - 2: ByzFL's f + 1 is the paper's f
    assume(n >= 2 * f + 3)
    matrix = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
    np.testing.assert_allclose(update(krum(f), matrix), byzfl.Krum(f + 1)(matrix), rtol=1e-5)
    np.testing.assert_allclose(update(multi_krum(f, m=n - f - 1), matrix), byzfl.MultiKrum(f + 1)(matrix), rtol=1e-5, atol=1e-6)
