"""Simple rules: 3 x 2 examples by hand, and ByzFL as the oracle."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import byzfl
import numpy as np
import pytest
import torch
from fedrobust.strategies.fedavg import fedavg
from fedrobust.strategies.krum import krum, krum_scores, multi_krum
from fedrobust.strategies.median import median
from fedrobust.strategies.trimmed_mean import coordinatewise_trimmed, trimmed_mean
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedrobust.aggregation.round import Aggregate, Round, ServerData, Strategy
from fedrobust.aggregation.storage import allocate
from fedrobust.aggregation.updates import Updates, squared_distances
from fedrobust.errors import ConfigError
from fedrobust.state import State

SMALL = torch.tensor([[0.0, 3.0], [1.0, 1.0], [5.0, 5.0]])


def apply(strategy: Strategy, matrix_ND: Tensor, counts: list[int] | None = None) -> Aggregate:
    updates = Updates.of(matrix_ND, None if counts is None else torch.tensor(counts))
    reference = State(torch.zeros(matrix_ND.shape[1]), torch.zeros(0))
    return strategy.rule(
        Round(1, reference, updates, ServerData(nn.Identity()), torch.Generator().manual_seed(0))
    )


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
        # f = 0: nearest N - 2 = 1 other. Squared distances 01: 1 + 4 = 5, 02: 25 + 4 = 29, 12: 16 +
        # 16 = 32, scores 5, 5, 29: the tie goes to client 0
        (krum(0), [0, 3], [1, 0, 0]),
        (multi_krum(0, m=2), [0.5, 2], [0.5, 0.5, 0]),
        (multi_krum(0), [2, 3], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_three_clients_two_parameters(
    strategy: Strategy, update: list[float], weights: list[float]
) -> None:
    result = apply(strategy, SMALL, [1, 1, 2])
    torch.testing.assert_close(result.state.parameters, torch.tensor(update, dtype=torch.float32))
    torch.testing.assert_close(result.weights_N, torch.tensor(weights, dtype=torch.float64))


def test_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    # column 0: 0 1 3 9 -> (1 + 3)/2 = 2, halves to clients 2 and 0; column 1: 4 4 4 7 -> 4, shared
    # by clients 0, 1, 3
    result = apply(median(), torch.tensor([[3.0, 4], [9, 4], [1, 7], [0, 4]]))
    assert result.state.parameters.tolist() == [2, 4]
    expected = torch.tensor([1 / 2 + 1 / 3, 1 / 3, 1 / 2, 1 / 3], dtype=torch.float64) / 2
    torch.testing.assert_close(result.weights_N, expected)


def test_trimmed_mean_shares_the_edge_of_the_kept_range() -> None:
    # sorted 1 1 2 8 8, f = 1 keeps 1 2 8 (mean 11/3): one of the two 1s, one of the two 8s
    result = apply(trimmed_mean(1), torch.tensor([[1.0], [8], [2], [1], [8]]))
    torch.testing.assert_close(result.state.parameters, torch.tensor([11 / 3]))
    torch.testing.assert_close(
        result.weights_N, torch.tensor([1, 1, 2, 1, 1], dtype=torch.float64) / 6
    )


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(0, 4), st.integers(0, 2**32), st.integers(1, 6))
def test_influence_agrees_with_counting(n: int, f: int, seed: int, levels: int) -> None:
    """Oracle: of the sorted column the middle N - 2f values are kept; each distinct one is shared
    by the clients that have it."""
    assume(2 * f < n)
    matrix = torch.randint(
        -levels, levels, (n, 6), generator=torch.Generator().manual_seed(seed)
    ).float()
    expected = np.zeros(n)
    for column in matrix.T.tolist():
        kept = sorted(column)[f : n - f]
        expected += [kept.count(value) / column.count(value) for value in column]
    update_D, influence_N = coordinatewise_trimmed(Updates.of(matrix), f)
    np.testing.assert_allclose(influence_N, expected / expected.sum(), atol=1e-12)
    np.testing.assert_allclose(
        update_D, np.sort(matrix.numpy(), axis=0)[f : n - f].mean(axis=0), atol=1e-6
    )


def test_the_order_of_clients_does_not_change_a_bit() -> None:
    matrix = torch.randn(50, 3000, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    for f in (0, 10, 24):
        (one, weights), (other, moved) = (
            coordinatewise_trimmed(Updates.of(matrix), f),
            coordinatewise_trimmed(Updates.of(matrix[order]), f),
        )
        assert torch.equal(one, other)
        assert torch.equal(weights[order], moved)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_no_number_is_trimmed_like_the_largest(broken: float) -> None:
    # column 0: 1 2 3 4 and the broken one, f = 1. nan and inf are the largest: 2 3 4 stay; -inf the
    # smallest: 1 2 3
    matrix = torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0], [broken, 0]])
    result = apply(trimmed_mean(1), matrix)
    assert result.state.parameters.tolist() == [2 if broken == -torch.inf else 3, 0]
    assert result.weights_N[4] == pytest.approx(1 / 5 / 2)
    middle = apply(median(), matrix).state.parameters.tolist()
    assert middle == [2 if broken == -torch.inf else 3, 0]


def test_values_that_cancel_are_no_number_and_no_warning() -> None:
    result = apply(trimmed_mean(0), torch.tensor([[torch.inf, torch.nan], [-torch.inf, torch.nan]]))
    assert result.state.parameters.isnan().all()
    assert result.weights_N.isfinite().all()


@pytest.mark.parametrize(
    "strategy",
    [fedavg(), median(), trimmed_mean(2), krum(2), multi_krum(2)],
    ids=lambda one: one.name,
)
def test_a_matrix_on_disk_gives_the_same_bits(
    strategy: Strategy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # several blocks, with pages on their borders
    monkeypatch.setattr("fedrobust.aggregation.updates.BLOCK", 1 << 18)
    matrix = torch.randn(12, 40_001, generator=torch.Generator().manual_seed(0))
    mapped = allocate(12, 40_001, 0, str(tmp_path)).copy_(matrix)
    counts = list(range(12))  # client 0 has no weight in fedavg
    one, other = apply(strategy, matrix, counts), apply(strategy, mapped, counts)
    assert torch.equal(one.state.parameters, other.state.parameters)
    assert torch.equal(one.weights_N, other.weights_N)
    assert torch.equal(mapped, matrix)


def test_krums_choice_is_exact_where_a_large_common_part_hides_the_distances() -> None:
    """Updates of about 1 (all share it) that differ by 2^-20: the squared distances are some 2^-40
    of the inner products, less than float32 can hold and far more than float64 needs. Oracle:
    scores in exact fractions."""
    generator = torch.Generator().manual_seed(0)
    common = 1 + torch.rand(400, generator=generator)
    steps = torch.randint(-8, 9, (9, 400), generator=generator) * 2.0**-20
    matrix = common + steps  # exact: float32 resolves 2^-22 there
    rows = [[Fraction(value) for value in row] for row in matrix.tolist()]
    scores = []
    for n, row in enumerate(rows):
        distances = sorted(
            sum((a - b) ** 2 for a, b in zip(row, other, strict=True))
            for m, other in enumerate(rows)
            if m != n
        )
        scores.append(sum(distances[: 9 - 2 - 2]))
    found = krum_scores(squared_distances(Updates.of(matrix).gram()), 2)
    np.testing.assert_allclose(found, [float(score) for score in scores], rtol=1e-3)
    assert int(apply(krum(2), matrix).weights_N.argmax()) == min(range(9), key=lambda n: scores[n])
    in_float32 = krum_scores(squared_distances((matrix @ matrix.T).double()), 2)
    # why gram is not in float32
    assert (
        float((in_float32 / torch.tensor([float(score) for score in scores]) - 1).abs().max()) > 1
    )


def test_krum_scores_by_hand() -> None:
    # points 0 1 3 7 20 on a line, f = 1: the 5 - 1 - 2 = 2 nearest others
    # 0: 1 + 9; 1: 1 + 4; 3: 4 + 9 (1 and 0; 7 is 16 away); 7: 16 + 36; 20: 169 + 289
    points = torch.tensor([[0.0], [1], [3], [7], [20]])
    assert krum_scores(squared_distances(Updates.of(points).gram()), 1).tolist() == [
        10,
        5,
        13,
        52,
        458,
    ]
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
    assert [
        s.min_clients for s in (fedavg(), median(), trimmed_mean(2), krum(2), multi_krum(2))
    ] == [1, 1, 5, 7, 7]


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


@settings(max_examples=40)
@given(matrices())
def test_average_and_median_agree_with_byzfl(matrix: np.ndarray) -> None:
    np.testing.assert_allclose(
        update(fedavg("uniform"), matrix), byzfl.Average()(matrix), atol=1e-4
    )
    np.testing.assert_allclose(update(median(), matrix), byzfl.Median()(matrix), atol=1e-4)


@settings(max_examples=40)
@given(matrices(least=3), st.integers(0, 4))
def test_trimmed_mean_agrees_with_byzfl(matrix: np.ndarray, f: int) -> None:
    assume(2 * f < len(matrix))
    np.testing.assert_allclose(update(trimmed_mean(f), matrix), byzfl.TrMean(f)(matrix), atol=1e-4)


@settings(max_examples=40)
@given(st.integers(3, 9), st.integers(0, 3), st.integers(0, 2**32))
def test_krum_agrees_with_byzfl(n: int, f: int, seed: int) -> None:
    # ByzFL sums over N - f - 1 others, the paper over N - f - 2: ByzFL's f + 1 is the paper's f
    assume(n >= 2 * f + 3)
    matrix = torch.randn(
        n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).numpy()
    np.testing.assert_allclose(update(krum(f), matrix), byzfl.Krum(f + 1)(matrix), rtol=1e-5)
    np.testing.assert_allclose(
        update(multi_krum(f, m=n - f - 1), matrix),
        byzfl.MultiKrum(f + 1)(matrix),
        rtol=1e-5,
        atol=1e-6,
    )
