"""Images at twice and at half their size on a CPU, as machine code: what `base.resize_images` does
at other ratios, ten times as fast.

With a factor of two every new pixel has the same few weights, which numba compiles (at the first
call) into loops without look-ups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrobust.utils.compiled import compiled, shared_out, whole

# linear: a new pixel's centre is a quarter of an old pixel away from the old one's
NEAR, FAR = 0.75, 0.25
# linear over twice the distance: the two old pixels that a new one covers, and the next ones
INNER, OUTER = 0.375, 0.125


def double_resolution(images: Tensor) -> Tensor:
    """Images (B, C, H, W), float32 or float64 on a CPU, at (2 H, 2 W): linear, border pixels
    repeated."""
    return _mapped(_double, images, (2 * images.shape[2], 2 * images.shape[3]))


def halve_resolution(images: Tensor) -> Tensor:
    """Images (B, C, H, W) on a CPU, H and W even and at least 4, at (H / 2, W / 2): linear over the
    four old pixels in reach; at the border over the three that there are."""
    return _mapped(_halve, images, (images.shape[2] // 2, images.shape[3] // 2))


def _mapped(action: Any, images: Tensor, size: tuple[int, int]) -> Tensor:
    maps = images.flatten(0, 1).contiguous().numpy()
    out = np.empty((len(maps), *size), maps.dtype)
    shared_out(lambda first, last: action(maps[first:last], out[first:last]), len(maps), out.size)
    return torch.from_numpy(out).view(*images.shape[:2], *size)


@compiled
def _double(maps: Any, out: Any) -> None:  # pragma: no cover  # compiled
    near, far = maps.dtype.type(NEAR), maps.dtype.type(FAR)
    line = np.empty(maps.shape[2], maps.dtype)
    last = maps.shape[1] - 1
    for place in range(len(maps)):
        old, new = maps[place], out[place]
        for row in range(last + 1):
            for below in range(2):
                other = min(row + 1, last) if below else max(row - 1, 0)
                for j in range(len(line)):
                    line[j] = near * old[row, j] + far * old[other, j]
                _double_line(line, new[2 * row + below])


@compiled
def _double_line(old: Any, new: Any) -> None:  # pragma: no cover  # compiled
    near, far = old.dtype.type(NEAR), old.dtype.type(FAR)
    one, two, length = whole(1), whole(2), whole(len(old))
    new[0], new[two * length - one] = old[0], old[length - one]
    for j in range(length - one):
        new[two * j + one] = near * old[j] + far * old[j + one]
        new[two * j + two] = far * old[j] + near * old[j + one]


@compiled
def _halve(maps: Any, out: Any) -> None:  # pragma: no cover  # compiled
    for place in range(len(maps)):
        _halve_map(maps[place], out[place])


@compiled
def _halve_map(old: Any, new: Any) -> None:  # pragma: no cover  # compiled
    inner, outer = old.dtype.type(INNER), old.dtype.type(OUTER)
    line = np.empty(old.shape[1], old.dtype)
    last = len(new) - 1
    for row in range(len(new)):
        first, second = old[2 * row], old[2 * row + 1]
        if 0 < row < last:
            before, after = old[2 * row - 1], old[2 * row + 2]
            for j in range(len(line)):
                line[j] = inner * (first[j] + second[j]) + outer * (before[j] + after[j])
        else:
            beside = old[2] if row == 0 else old[2 * row - 1]
            for j in range(len(line)):
                line[j] = (inner * (first[j] + second[j]) + outer * beside[j]) / (
                    inner + inner + outer
                )
        _halve_line(line, new[row])


@compiled
def _halve_line(old: Any, new: Any) -> None:  # pragma: no cover  # compiled
    inner, outer = old.dtype.type(INNER), old.dtype.type(OUTER)
    one, two, last = whole(1), whole(2), whole(len(new) - 1)
    for j in range(one, last):
        at = two * j
        new[j] = inner * (old[at] + old[at + one]) + outer * (old[at - one] + old[at + two])
    new[0] = (inner * (old[0] + old[1]) + outer * old[2]) / (inner + inner + outer)
    at = two * last
    new[last] = (inner * (old[at] + old[at + one]) + outer * old[at - one]) / (
        inner + inner + outer
    )
