"""Networks of exchanges."""

from __future__ import annotations

import itertools

import pytest

from fedrobust.aggregation.networks import network


@pytest.mark.parametrize("n", range(1, 11))
def test_a_network_sorts_every_row_of_zeros_and_ones(n: int) -> None:
    """So it sorts everything (the zero-one principle), with all its places and with some only."""
    for places in {
        range(n),
        range(n // 2, n // 2 + 1),
        range(n // 3, n - n // 3),
        range(1 if n > 1 else 0, n),
    }:
        for bits in itertools.product((0, 1), repeat=n):
            rows = list(bits)
            for low, high, want_low, want_high in network(n, places):
                small, large = sorted((rows[low], rows[high]))
                rows[low] = small if want_low else rows[low]
                rows[high] = large if want_high else rows[high]
            assert [rows[place] for place in places] == [sorted(bits)[place] for place in places]


@pytest.mark.parametrize(("n", "most"), [(9, 32), (10, 46), (11, 48), (31, 274)])
def test_the_median_takes_few_minima_and_maxima(n: int, most: int) -> None:
    kept = network(n, range((n - 1) // 2, n // 2 + 1))
    assert sum(low + high for *_, low, high in kept) <= most
