"""The compiled network: bit by bit what sorting gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fedrobust.strategies.trimmed_mean import middle

from fedrobust.aggregation import coordinatewise as _order
from fedrobust.aggregation.coordinatewise import coordinatewise, on_cpu
from fedrobust.aggregation.updates import Updates

pytest.importorskip("numba")


@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize(("n", "columns"), [(33, 64), (40, 1), (41, 150)])
def test_the_median_of_many_rows_and_its_influence_are_those_of_sorting(
    n: int, columns: int, levels: int
) -> None:
    """Also of a part of a larger matrix, whose rows do not lie side by side."""
    generator = torch.Generator().manual_seed(n)
    wide = torch.randn(n, columns + 9, generator=generator)
    block = (wide.mul(levels).round() if levels else wide)[:, 4 : 4 + columns]
    before, choice, found = block.clone(), middle(n, (n - 1) // 2), []
    for many in (False, True):
        out_b = torch.empty(columns)
        found.append((out_b, on_cpu(block, choice, out_b, 9, many=many)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(block, before)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_strip_with_a_value_that_is_not_finite_is_sorted_instead(broken: float) -> None:
    from fedrobust.aggregation.coordinatewise_cpu import exchange_rows

    values = np.ones((35, 70), np.float32)
    room = np.empty(36 * 70, np.float32)
    assert exchange_rows(values, range(17, 18), room) is not None
    values[20, 66] = broken
    assert exchange_rows(values, range(17, 18), room) is None


def test_large_matrices_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedrobust.aggregation import coordinatewise_cpu

    taken = []
    exchange = coordinatewise_cpu.exchange_rows
    monkeypatch.setattr(
        coordinatewise_cpu, "exchange_rows", lambda *given: taken.append(1) or exchange(*given)
    )
    matrix = torch.randn(33, 20, generator=torch.Generator().manual_seed(0))
    for pays, times in ((_order.PAYS, 0), (660, 1)):
        monkeypatch.setattr(_order, "PAYS", pays)
        coordinatewise(Updates.of(matrix), middle(33, 16))
        assert len(taken) == times
    coordinatewise(Updates.of(matrix), middle(33, 3))  # sums of many rows keep their order
    assert len(taken) == 1
