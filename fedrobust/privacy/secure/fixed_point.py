"""Updates as whole numbers modulo 2^64, in which sums are exact in any order.

A coordinate x of an update of length at most `clip` becomes round(w x s), where w is the client's
weight, a whole number from 1 to `most_weight`, and s is the power of two for which most_weight *
clip * s lies in [2^51, 2^52). No sum of up to MOST_CLIENTS = 2^10 of them overflows: float32
rounding lets a clipped coordinate be longer than `clip` by far less than its half, so that each is
below 2^52 * 3/2, and 2^10 of these are below 2^63. The weight is one more value behind the
coordinates: 2^10 * 2^29 < 2^63.

w x s is exact in float64 (24 bits of x, 29 of w), so each client rounds by at most 1/2, n clients
by n/2, and the weighted mean is off by at most n / (2 s W) with W the sum of the weights. As s >=
2^51 / (most_weight * clip) and W >= n, that is less than most_weight * clip / 2^52 for any weights:
with a million images 2.3e-10 clip. Modulo 2^32 would halve the upload, but with weights of up to
2^20 and ten clients leave 32 - 20 - 4 = 8 bits for a coordinate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BITS = 52
MOST_CLIENTS = 1 << 10
MOST_WEIGHT = 1 << 29
CHUNK = 1 << 20  # values widened to float64 at once


def scale(clip: float, most_weight: int) -> float:
    """The power of two s: what a coordinate is multiplied with."""
    return math.ldexp(1.0, BITS - math.frexp(clip * most_weight)[1])


def error(clients: int, total_weight: int, s: float) -> float:
    """The most by which rounding moves a coordinate of the mean."""
    return clients / (2 * s * total_weight)


def encode(update_D: Tensor, weight: int, s: float) -> Tensor:
    """(D + 1,) int64: the float32 update times the weight, and the weight itself. The update is
    left unchanged."""
    out = torch.empty(len(update_D) + 1, dtype=torch.int64)
    for start in range(0, len(update_D), CHUNK):
        part = update_D[start : start + CHUNK].to(torch.float64).mul_(weight * s).round_()
        out[start : start + len(part)] = part
    out[-1] = weight
    return out


def decode(total: Tensor, s: float) -> tuple[Tensor, int]:
    """((D,) float32 weighted mean, sum of the weights) of a sum of encoded updates whose weights
    sum to more than 0."""
    weight = int(total[-1])
    mean_D = torch.empty(len(total) - 1)
    for start in range(0, len(mean_D), CHUNK):
        part = total[start : start + CHUNK][: len(mean_D) - start]
        mean_D[start : start + len(part)] = part.to(torch.float64).div_(weight * s)
    return mean_D, weight
