"""Standard normal numbers: from a seed in simulations, from the operating system's secret
randomness at a real hospital."""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from torch import Generator, Tensor

from fedrobust.privacy.mechanisms import Noise

BLOCK = 1 << 20  # numbers made at once


def seeded_noise(generator: Generator) -> Noise:
    """Repeatable, so it does not protect against the server, which knows the seed."""
    return lambda number: torch.randn(number, generator=generator)


def secret_noise(number: int) -> Tensor:
    """(number,) float32 normal numbers that cannot be repeated: Box and Muller's transform of the
    system's cryptographic generator."""
    out = torch.empty(number)
    for start in range(0, number, BLOCK):
        part = out[start : start + BLOCK]
        part.copy_(torch.from_numpy(_block(len(part))))
    return out


def _block(number: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    pairs = (number + 1) // 2
    bits = np.frombuffer(os.urandom(16 * pairs), dtype=np.uint64).reshape(2, pairs) >> 11
    radius = np.sqrt(-2 * np.log((bits[0] + 1.0) * 2.0**-53))  # of a number in (0, 1]
    angle = 2 * math.pi * 2.0**-53 * bits[1]
    normal: np.ndarray[tuple[int], np.dtype[np.float64]] = np.concatenate(
        [radius * np.cos(angle), radius * np.sin(angle)]
    )[:number]
    return normal
