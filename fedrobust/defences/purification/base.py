"""Helpers of the purifiers: checked images in portions, resampling and smoothing that keep what is
even."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional

from fedrobust.types import Purifier, Purify
from fedrobust.utils.machine import HAS_NUMBA

COMPILED = HAS_NUMBA
# that a thread purifies at once: a pyramid of them about fills a core's cache, and its memory is
# used again
VALUES = 2**16
GPU = 16  # times as many there: bounds the memory of pyramids


def purifier(name: str, apply: Purify, *, differentiable: bool = True) -> Purifier:
    """A purifier that works portion by portion in float32 (float64 for float64 images), its result
    clipped to [0, 1].

    apply: (images (B, C, H, W), generator) -> images of the same shape. The purifier raises
    ValueError for images that are not floating-point numbers in [0, 1] in four axes; none at all
    come back unchanged.
    """

    def purify(images: Tensor, generator: Generator) -> Tensor:
        _check(name, images)
        if images.numel() == 0:
            return images
        wide = images.to(torch.promote_types(images.dtype, torch.float32))
        most = VALUES * (torch.get_num_threads() if images.device.type == "cpu" else GPU)
        portions = torch.split(wide, max(1, most // images[0].numel()))
        return torch.cat([apply(one, generator).clamp(0, 1).to(images.dtype) for one in portions])

    return Purifier(name, purify, differentiable)


def _check(name: str, images: Tensor) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"purifier={name}: images must be floating-point (B, C, H, W), not "
            f"{images.dtype} {tuple(images.shape)}"
        )
    if images.numel():
        low, high = torch.aminmax(images.detach())
        if not bool((low >= 0) & (high <= 1)):  # NaN fails both comparisons
            raise ValueError(
                f"purifier={name}: images must be numbers in [0, 1] (found NaN or a value outside)"
            )


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) at another size (height, width): linear, averaging over the old pixels
    that a new one covers."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    if runs_compiled(images):
        from fedrobust.defences.purification.resampling_cpu import (
            double_resolution,
            halve_resolution,
        )

        if size == (2 * height, 2 * width):
            return double_resolution(images)
        if (2 * size[0], 2 * size[1]) == (height, width) and min(size) > 1:
            return halve_resolution(images)
    return functional.interpolate(
        images, size=size, mode="bilinear", align_corners=False, antialias=True
    )


def runs_compiled(images: Tensor) -> bool:
    """Whether compiled loops serve these images: on a CPU, without a gradient, and with numba."""
    unrolled = torch.is_grad_enabled() and images.requires_grad
    return COMPILED and images.device.type == "cpu" and not unrolled


def smooth_images(images: Tensor, taps: Sequence[float]) -> Tensor:
    """Images (B, C, H, W) convolved with an odd number of taps along both axes; border pixels are
    repeated."""
    reach = len(taps) // 2
    for axis, padding in ((-2, (0, 0, reach, reach)), (-1, (reach, reach, 0, 0))):
        padded, length = functional.pad(images, padding, mode="replicate"), images.shape[axis]
        images = taps[0] * padded.narrow(axis, 0, length)
        for place, tap in enumerate(taps[1:], start=1):
            images.add_(padded.narrow(axis, place, length), alpha=tap)
    return images
