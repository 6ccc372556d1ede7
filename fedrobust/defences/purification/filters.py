"""Plain filters to compare with: Gaussian smoothing and the median."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from fedrobust.defences.purification.base import purifier, smooth_images
from fedrobust.errors import ConfigError
from fedrobust.types import Purifier
from fedrobust.utils.images import compress_jpeg
from fedrobust.utils.validation import number


def gaussian(*, std: float = 0.8) -> Purifier:
    """Smoothing by a Gaussian of deviation `std` in pixels, cut at three deviations; border pixels
    are repeated."""
    number("purifier.std", std, low=0, open_low=True)
    reach = math.ceil(3 * std)
    weights = [math.exp(-(place**2) / (2 * std**2)) for place in range(-reach, reach + 1)]
    taps = [weight / sum(weights) for weight in weights]

    def apply(images: Tensor, generator: Generator) -> Tensor:
        return smooth_images(images, taps)

    return purifier("gaussian", apply)


def median_filter(*, size: int = 3) -> Purifier:
    """The median of size x size pixels of a channel, `size` odd; border pixels are repeated."""
    number("purifier.size", size, low=1, integer=True)
    if size % 2 == 0:
        raise ConfigError(
            f"purifier.size={size}: must be odd, so that a pixel lies in the middle; use {size + 1}"
        )

    def apply(images: Tensor, generator: Generator) -> Tensor:
        height, width = images.shape[-2:]
        padded = functional.pad(images, [size // 2] * 4, mode="replicate")
        shifted = [
            padded[..., row : row + height, column : column + width]
            for row in range(size)
            for column in range(size)
        ]
        return torch.stack(shifted, dim=-1).median(dim=-1).values

    return purifier("median_filter", apply)


def jpeg(*, quality: int = 75) -> Purifier:
    """The images after JPEG compression, quality 1 to 100 on libjpeg's scale. Images have 1 or 3
    channels; no gradient comes through."""
    number("purifier.quality", quality, low=1, high=100, integer=True)

    def apply(images: Tensor, generator: Generator) -> Tensor:
        return compress_jpeg(images, quality)

    return purifier("jpeg", apply, differentiable=False)
