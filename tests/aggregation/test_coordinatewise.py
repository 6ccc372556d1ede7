"""The kernels of coordinate-wise rules: sorting, counting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from fedrobust.strategies.meamed import around_median
from fedrobust.strategies.trimmed_mean import middle
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrobust.aggregation import coordinatewise as _order
from fedrobust.aggregation.coordinatewise import (
    Selection,
    SortedColumns,
    coordinatewise,
    on_cpu,
    on_device,
)
from fedrobust.aggregation.updates import Updates

CHOICES = {"trimmed": middle, "meamed": lambda n, f: around_median(n, n - f)}
makers = pytest.mark.parametrize("make", CHOICES.values(), ids=CHOICES)


@makers
@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(0, 19), st.integers(0, 2**32), st.integers(0, 40))
def test_networks_sorting_and_an_accelerator_find_the_same(
    make: Callable[[int, int], Selection], n: int, f: int, seed: int, levels: int
) -> None:
    """levels: of small whole numbers, with many ties; 0: normal values, without."""
    assume(2 * f < n)
    generator = torch.Generator().manual_seed(seed)
    block = (
        torch.randint(-levels, levels + 1, (n, 50), generator=generator).float()
        if levels
        else torch.randn(n, 50, generator=generator)
    )
    choice, found = make(n, f), []
    for few in (40, 0):
        out_b = torch.empty(50)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_order, "FEW", few)
            found.append((out_b, on_cpu(block, choice, out_b)))
    out_b = torch.empty(50)
    found.append((out_b, on_device(block, choice, out_b)))
    for out_b, counts_N in found[1:]:
        torch.testing.assert_close(out_b, found[0][0])
        torch.testing.assert_close(counts_N, found[0][1], rtol=1e-6, atol=1e-5)
    assert float(found[0][1].sum()) == pytest.approx(50 * choice.width)


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(0, 4), st.integers(0, 2**32), st.integers(1, 6))
def test_meameds_influence_agrees_with_counting(n: int, f: int, seed: int, levels: int) -> None:
    """Oracle: the n - f values nearest to the median, of equally far ones the smaller; each
    distinct one is shared by the clients that have it."""
    assume(2 * f < n)
    matrix = torch.randint(
        -levels, levels, (n, 6), generator=torch.Generator().manual_seed(seed)
    ).float()
    expected, means = np.zeros(n), []
    for column in matrix.T.tolist():
        centre = float(np.median(column))
        kept = sorted(column, key=lambda value: (abs(value - centre), value))[: n - f]
        expected += [kept.count(value) / column.count(value) for value in column]
        means.append(sum(kept) / len(kept))
    update_D, influence_N = coordinatewise(Updates.of(matrix), around_median(n, n - f))
    np.testing.assert_allclose(influence_N, expected / expected.sum(), atol=1e-12)
    np.testing.assert_allclose(update_D, means, atol=1e-6)


@makers
def test_chosen_rows_alone_take_part(make: Callable[[int, int], Selection]) -> None:
    matrix = torch.randn(9, 300, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([1, 2, 5, 6, 8])
    one_D, one_N = coordinatewise(Updates.of(matrix), make(5, 1), rows)
    other_D, other_N = coordinatewise(Updates.of(matrix[rows]), make(5, 1))
    assert torch.equal(one_D, other_D)
    assert torch.equal(one_N, other_N)


@makers
@pytest.mark.parametrize("n", [11, 50])
def test_the_order_of_clients_and_the_number_of_threads_do_not_change_a_bit(
    make: Callable[[int, int], Selection], n: int
) -> None:
    matrix = torch.randn(n, 30_000, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    one, weights = coordinatewise(Updates.of(matrix), make(n, 3))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        other, moved = coordinatewise(Updates.of(matrix[order]), make(n, 3))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, other)
    assert torch.equal(weights[order], moved)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_meamed_drops_what_is_no_number(broken: float) -> None:
    matrix: Tensor = torch.tensor([[1.0], [2], [4], [broken], [3]])
    update_D, influence_N = coordinatewise(Updates.of(matrix), around_median(5, 4))
    assert update_D.tolist() == [2.5]
    assert influence_N.tolist() == [0.25, 0.25, 0.25, 0, 0.25]


def test_the_mean_of_the_two_largest_floats_is_finite() -> None:
    matrix = torch.full((4, 3), 3e38)
    for make in CHOICES.values():
        torch.testing.assert_close(
            coordinatewise(Updates.of(matrix), make(4, 1))[0], torch.full((3,), 3e38)
        )


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32), st.integers(0, 6))
def test_any_number_of_values_around_the_median(n: int, kept: int, seed: int, levels: int) -> None:
    """Selections as in Bulyan, fewer than half too. Oracle as above; levels 0: normal values."""
    # the middle two of an even number are equally far but for rounding
    assume(kept <= n and (kept > 1 or n % 2))
    generator = torch.Generator().manual_seed(seed)
    matrix = (
        torch.randint(-levels, levels + 1, (n, 5), generator=generator).float()
        if levels
        else torch.randn(n, 5, generator=generator)
    )
    before, expected, means = matrix.clone(), np.zeros(n), []
    for column in matrix.T.tolist():
        centre = float(np.median(column))
        taken = sorted(column, key=lambda value: (abs(value - centre), value))[:kept]
        expected += [taken.count(value) / column.count(value) for value in column]
        means.append(sum(taken) / kept)
    for few in (32, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_order, "FEW", few)
            update_D, influence_N = coordinatewise(Updates.of(matrix), around_median(n, kept))
        np.testing.assert_allclose(update_D, means, atol=1e-6)
        np.testing.assert_allclose(influence_N, expected / expected.sum(), atol=1e-12)
    assert torch.equal(matrix, before)


@makers
@pytest.mark.parametrize("n", [5, 40])
def test_a_single_column_is_not_sorted_where_it_lies(
    make: Callable[[int, int], Selection], n: int
) -> None:
    matrix = torch.randn(n, 1, generator=torch.Generator().manual_seed(0))
    before = matrix.clone()
    coordinatewise(Updates.of(matrix), make(n, 2))
    assert torch.equal(matrix, before)


@makers
@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(0, 19), st.integers(0, 2**32), st.integers(0, 40))
def test_counting_apart_from_the_means_changes_no_bit(
    make: Callable[[int, int], Selection], n: int, f: int, seed: int, levels: int
) -> None:
    """levels: as above; strips of 70 columns, so that the columns of several are gathered."""
    assume(2 * f < n)
    generator = torch.Generator().manual_seed(seed)
    block = (
        torch.randint(-levels, levels + 1, (n, 400), generator=generator).float() / 3
        if levels
        else torch.randn(n, 400, generator=generator)
    )
    choice, found = make(n, f), []
    for apart in (1000, 1):
        out_b = torch.empty(400)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_order, "APART", apart)
            patch.setattr(_order, "NEAR", 4 * n * 70)
            patch.setattr(_order, "WIDE", 70)
            found.append((out_b, on_cpu(block, choice, out_b, 9)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("low", [3e38, 1.0, 1e-38, 1e-44])
def test_the_mean_of_two_floats_has_the_bits_of_float64(low: float) -> None:
    """Also where the sum overflows in float32, and where its half is below the normal numbers."""
    values = low * (1 + torch.rand(2, 5000, generator=torch.Generator().manual_seed(1)) / 9)
    values[0] *= torch.where(torch.arange(5000) % 3 == 0, -0.7, 1.0)
    ordered = np.sort(values.numpy(), axis=0)
    wide = (ordered[0].astype(np.float64) + ordered[1]) / 2
    with np.errstate(over="ignore"):
        mean_b = SortedColumns(ordered, np).mean(0, 2)
    np.testing.assert_array_equal(mean_b.astype(np.float32), wide.astype(np.float32))


@makers
def test_influence_is_counted_on_some_columns_where_there_are_many(
    make: Callable[[int, int], Selection], monkeypatch: pytest.MonkeyPatch
) -> None:
    block = torch.randint(-9, 10, (7, 6000), generator=torch.Generator().manual_seed(3)).float()
    update_D, exact_N = coordinatewise(Updates.of(block), make(7, 2))
    monkeypatch.setattr(_order, "COUNTED", 2000)
    same_D, rough_N = coordinatewise(Updates.of(block), make(7, 2))
    assert torch.equal(same_D, update_D)
    assert not torch.equal(rough_N, exact_N)
    assert float(rough_N.sum()) == pytest.approx(1)
    # five standard errors of a share counted on 2000 columns
    assert (rough_N - exact_N).abs().max() < 5 * (0.25 / 2000) ** 0.5
