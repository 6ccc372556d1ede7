"""The steps of `total_variation.rof` on a CPU as machine code: all of a step while the pixels are
in the cache, which one tensor operation after the other cannot do.

Compiled by numba at the first call (some seconds), in IEEE arithmetic without shortcuts: a map's
values do not depend on the maps beside it, on the number of threads or on the machine.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrobust.utils.compiled import compiled, inlined, shared_out, whole

# values that a loop runs over, at least: so many maps lie side by side. More of them leave the
# cache at some sizes
ROW = 512
LINE = 16  # float32 numbers in a cache line; of float64 these are two


def solved(f: Tensor, weight: float, steps: list[tuple[float, float]]) -> Tensor:
    """The u of maps f (M, H, W), float32 or float64 on a CPU, after these steps (tau, beta), by as
    many threads as torch has."""
    if not steps:
        return f.clone()
    given = f.contiguous().numpy()
    out = np.empty_like(given)
    together = max(1, ROW // given.shape[2])
    scale, table = given.dtype.type(weight), np.array(steps, given.dtype)

    def loop(first: int, last: int) -> None:
        for place in range(first, last):
            _group(
                given,
                out,
                (place * together, min(together, len(given) - place * together)),
                scale,
                table,
            )

    shared_out(loop, -(-len(given) // together), given.size)
    return torch.from_numpy(out)


@compiled
def _group(
    f: Any, out: Any, maps: tuple[int, int], weight: Any, steps: Any
) -> None:  # pragma: no cover  # compiled
    """Maps = (first, B): B maps from `first` on, pixel by pixel side by side: rows of W B values
    make long loops of small maps too.

    A row needs only the values of the next row from before the step. So each step follows one row
    behind the step before it: a row comes in, `len(steps)` rows later it is done, and of everything
    in between `held` rows are kept, which stay in the nearest cache.
    """
    H, side = f.shape[1], whole(maps[1])
    row_length = whole(f.shape[2]) * side
    # Rows begin at whole cache lines and fill them: a load across two takes twice as long, and
    # loops need no rest of single values. What is behind a row stays 0 or is never looked at.
    width = (row_length + whole(LINE - 1)) // whole(LINE) * whole(LINE)
    before = (side + whole(LINE - 1)) // whole(LINE) * whole(LINE)  # 0, left of each row of p
    held = whole(len(steps) + 2)
    line = before + width
    size = held * line
    zero = f.dtype.type(0)
    # Two p each, a step's own and the other that before it, which then change places; and at last
    # the row of zeros above the first one.
    rows, columns = _lines(f, whole(2) * size + line), _lines(f, whole(2) * size)
    origin, u = _lines(f, held * width), _lines(f, held * width + before)
    kept = (rows, columns, origin, u)
    for front in range(-1, H + len(steps) - 1):
        if front + 1 < H:
            slot = whole(front + 1) % held
            _take(f, maps, front + 1, origin[slot * width : slot * width + row_length])
            _begin(kept, (slot * width, (slot + whole(1)) * width), weight)
            for at in (slot * line, size + slot * line):
                rows[at : at + line] = zero
                columns[at : at + line] = zero
        for step in range(max(0, front - H + 1), min(len(steps), front + 1)):
            row, odd = front - step, step % 2
            tau, beta = steps[step, 0], steps[step, 1]
            here, below = whole(row) % held * width, whole(row + 1) % held * width
            own = whole(1 - odd) * size + whole(row) % held * line + before
            last = whole(odd) * size + whole(row) % held * line + before
            above = (
                whole(2) * size
                if row == 0
                else whole(1 - odd) * size + whole(row - 1) % held * line
            ) + before
            places = (own, last, above, here, below)
            _update_p(kept, places, (width, row_length, side), (tau, beta), row + 1 == H)
            _update_u(kept, places, width, side)
        done = front - len(steps) + 1
        if done >= 0:
            _give(
                u[whole(done) % held * width : whole(done) % held * width + row_length],
                out,
                maps,
                done,
                weight,
            )


@inlined
def _begin(kept: Any, span: Any, weight: Any) -> None:  # pragma: no cover  # compiled
    """The values of a new row before the first step."""
    origin, u = kept[2], kept[3]
    for j in range(span[0], span[1]):
        origin[j] = origin[j] / weight
        u[j] = origin[j]


@inlined
def _update_p(
    kept: Any, places: Any, sizes: Any, lengths: Any, is_last: Any
) -> None:  # pragma: no cover  # compiled
    """One step of both p of a row: gradient ascent with momentum, then into the unit disk."""
    rows, columns, _, u = kept
    own, last, _, here, below = places
    width, row_length, side = sizes
    tau, beta = lengths
    zero, one = rows.dtype.type(0), rows.dtype.type(1)
    # Several short loops, for the compiler gives up on one over all of these arrays.
    if is_last:
        rows[own : own + width] = zero
    else:
        for j in range(width):
            p, q = rows[last + j], rows[own + j]
            rows[own + j] = p + beta * (p - q) + tau * (u[here + j] - u[below + j])
    for j in range(width):
        p, q = columns[last + j], columns[own + j]
        columns[own + j] = p + beta * (p - q) + tau * (u[here + j] - u[here + side + j])
    columns[own + row_length - side : own + width] = zero
    for j in range(width):
        p, q = rows[own + j], columns[own + j]
        scale = one / math.sqrt(max(one, p * p + q * q))
        rows[own + j] = p * scale
        columns[own + j] = q * scale


@inlined
def _update_u(
    kept: Any, places: Any, width: Any, side: Any
) -> None:  # pragma: no cover  # compiled
    """The row's u from the new p: the given values plus their divergence."""
    rows, columns, origin, u = kept
    own, _, above, here, _ = places
    for j in range(width):
        u[here + j] = (
            origin[here + j]
            - rows[own + j]
            - columns[own + j]
            + rows[above + j]
            + columns[own - side + j]
        )


@compiled
def _lines(like: Any, length: Any) -> Any:  # pragma: no cover  # compiled
    """So many zeros, of the type of `like`, from the start of a cache line on."""
    room = np.zeros(length + whole(LINE), like.dtype)
    fits = whole(4 * LINE // room.itemsize)
    past = whole(room.ctypes.data) // whole(room.itemsize) % fits
    return room[fits - past : fits - past + length]


@compiled
def _take(
    f: Any, maps: tuple[int, int], row: int, into: Any
) -> None:  # pragma: no cover  # compiled
    first, B = maps
    for place in range(B):
        for column in range(f.shape[2]):
            into[column * B + place] = f[first + place, row, column]


@compiled
def _give(
    u: Any, out: Any, maps: tuple[int, int], row: int, weight: Any
) -> None:  # pragma: no cover  # compiled
    first, B = maps
    for place in range(B):
        for column in range(out.shape[2]):
            out[first + place, row, column] = u[column * B + place] * weight
