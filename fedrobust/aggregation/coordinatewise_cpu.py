"""A network of exchanges as machine code: all of it while some columns are in the nearest cache,
which one numpy operation after the other cannot do.

Compiled by numba at the first call (about a second). Minima and maxima round nothing, so the values
are those of `coordinatewise` to the last bit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fedrobust.aggregation.networks import network
from fedrobust.utils.compiled import compiled, whole

LANES = whole(64)  # columns at once: some registers, and with hundreds of rows still a core's cache


def exchange_rows(values_Nb: Any, places: range, room: Any) -> Any | None:
    """The float32 rows of a strip in ascending order in every column, in `room`; those in `places`
    alone are written. None where a value is not finite."""
    n, width = values_Nb.shape
    rows_Nb = room[: n * width].reshape(n, width)
    if values_Nb.strides[1] != values_Nb.itemsize:
        values_Nb = np.ascontiguousarray(values_Nb)
    stride = values_Nb.strides[0] // values_Nb.itemsize
    flat = np.lib.stride_tricks.as_strided(
        values_Nb, ((n - 1) * stride + width,), (values_Nb.itemsize,), writeable=False
    )
    done = _exchange(flat, stride, _pairs(n, places), (places.start, places.stop), rows_Nb)
    return rows_Nb if done else None


@lru_cache(maxsize=64)
def _pairs(n: int, places: range) -> Any:
    return np.array([pair[:2] for pair in network(n, places)], np.uint16)


@compiled
def _exchange(
    flat: Any, stride: int, pairs: Any, places: tuple[int, int], rows: Any
) -> bool:  # pragma: no cover  # compiled
    """flat: the rows' memory, each `stride` values behind the one before it."""
    n, width = rows.shape
    zero = rows.dtype.type(0)
    near = np.zeros(n * LANES, rows.dtype)
    broken = np.zeros(LANES, rows.dtype)
    for first in range(0, width, LANES):
        count = min(LANES, whole(width - first))
        for row in range(n):
            start, at = whole(row * stride + first), whole(row) * LANES
            for j in range(count):
                value = flat[start + j]
                near[at + j] = value
                broken[j] += value * zero  # a sum of nan, where a value is not finite
        for place in range(len(pairs)):
            low, high = whole(pairs[place, 0]) * LANES, whole(pairs[place, 1]) * LANES
            for j in range(LANES):
                one, other = near[low + j], near[high + j]
                near[low + j] = other if other < one else one
                near[high + j] = one if other < one else other
        for row in range(places[0], places[1]):
            at = whole(row) * LANES
            for j in range(count):
                rows[row, whole(first) + j] = near[at + j]
    return not np.isnan(broken).any()
