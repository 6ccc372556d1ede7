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

from fedrobust.utils.compiled import compiled, shared_out, whole

# values that a loop runs over, at least: so many maps lie side by side. More of them leave the
# cache at some sizes
ROW = 512


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
    H, width, side = f.shape[1], whole(f.shape[2] * maps[1]), whole(maps[1])
    held = len(steps) + 2
    line = width + side  # of p, with a pixel that stays 0 before each row
    size = whole(held) * line
    zero, one = f.dtype.type(0), f.dtype.type(1)
    # Two p each, a step's own and the other that before it, which then change places; and at last
    # the row of zeros above the first one.
    rows, columns = np.zeros(whole(2) * size + line, f.dtype), np.zeros(whole(2) * size, f.dtype)
    origin, u = np.zeros(whole(held) * width, f.dtype), np.zeros(whole(held) * width, f.dtype)
    down, right = np.zeros(width, f.dtype), np.zeros(width, f.dtype)
    for front in range(-1, H + len(steps) - 1):
        if front + 1 < H:
            slot = whole((front + 1) % held)
            _take(f, maps, front + 1, origin[slot * width : (slot + whole(1)) * width])
            for j in range(slot * width, (slot + whole(1)) * width):
                origin[j] = origin[j] / weight
                u[j] = origin[j]
            for at in (slot * line, size + slot * line):
                rows[at : at + line] = zero
                columns[at : at + line] = zero
        for step in range(max(0, front - H + 1), min(len(steps), front + 1)):
            row, odd = front - step, step % 2
            tau, beta = steps[step, 0], steps[step, 1]
            here, below = whole(row % held) * width, whole((row + 1) % held) * width
            own = whole(1 - odd) * size + whole(row % held) * line + side
            last = whole(odd) * size + whole(row % held) * line + side
            above = (
                whole(2) * size
                if row == 0
                else whole(1 - odd) * size + whole((row - 1) % held) * line
            ) + side
            # Several short loops, for the compiler gives up on one over all of these arrays.
            for j in range(width):
                if row + 1 == H:
                    down[j] = zero
                else:
                    p, q = rows[last + j], rows[own + j]
                    down[j] = p + beta * (p - q) + tau * (u[here + j] - u[below + j])
            for j in range(width - side):
                p, q = columns[last + j], columns[own + j]
                right[j] = p + beta * (p - q) + tau * (u[here + j] - u[here + side + j])
            for j in range(width):
                scale = one / math.sqrt(max(one, down[j] * down[j] + right[j] * right[j]))
                rows[own + j] = down[j] * scale
                columns[own + j] = right[j] * scale
            for j in range(width):
                u[here + j] = (
                    origin[here + j]
                    - rows[own + j]
                    - columns[own + j]
                    + rows[above + j]
                    + columns[own - side + j]
                )
        done = front - len(steps) + 1
        if done >= 0:
            _give(
                u[whole(done % held) * width : whole(done % held + 1) * width],
                out,
                maps,
                done,
                weight,
            )


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
