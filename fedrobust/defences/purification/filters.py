"""Plain filters to compare with: Gaussian smoothing and the median."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from fedrobust.defences.purification.base import purifier, smooth_images
from fedrobust.errors import ConfigError
from fedrobust.types import Purifier
from fedrobust.utils.images import compress_jpeg
from fedrobust.utils.validation import Positive, PositiveCount, check_settings


@check_settings("purifier")
def gaussian(*, std: Positive = 0.8) -> Purifier:
    """Smoothing by a Gaussian that is cut at three deviations; border pixels are repeated.

    Args:
        std: deviation of the Gaussian in pixels.

    Returns:
        The purifier.

    Raises:
        ConfigError: a setting is out of its range.
    """
    reach = math.ceil(3 * std)
    weights = [math.exp(-(place**2) / (2 * std**2)) for place in range(-reach, reach + 1)]
    taps = [weight / sum(weights) for weight in weights]

    def apply(images: Tensor, generator: Generator) -> Tensor:
        return smooth_images(images, taps)

    return purifier("gaussian", apply)


@check_settings("purifier")
def median_filter(*, size: PositiveCount = 3) -> Purifier:
    """The median of size x size pixels of a channel; border pixels are repeated.

    Args:
        size: side of the window in pixels, odd.

    Returns:
        The purifier.

    Raises:
        ConfigError: a setting is out of its range.
    """
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


@check_settings("purifier")
def jpeg_compression(*, quality: Annotated[int, Field(ge=1, le=100)] = 75) -> Purifier:
    """The images after JPEG compression. Images have 1 or 3 channels; no gradient comes through.

    Args:
        quality: of the compression, on libjpeg's scale.

    Returns:
        The purifier.

    Raises:
        ConfigError: a setting is out of its range.
    """

    def apply(images: Tensor, generator: Generator) -> Tensor:
        return compress_jpeg(images, quality)

    return purifier("jpeg", apply, differentiable=False)
