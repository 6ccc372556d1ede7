"""Pixels as unit floats, as bytes, and after JPEG compression."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def as_unit(images: Tensor) -> Tensor:
    """uint8 in [0, 255] or float in [0, 1], any shape -> float32 in [0, 1] (a float32 input is
    returned unchanged)."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255.0)
    return images.to(torch.float32)


def as_bytes(images: Tensor) -> Tensor:
    """Float in [0, 1] -> uint8 in [0, 255], rounded to nearest; the inverse of `as_unit` on uint8
    images."""
    if images.dtype == torch.uint8:
        return images
    return images.clamp(0, 1).mul(255.0).round().to(torch.uint8)


def compress_jpeg(images: Tensor, quality: int) -> Tensor:
    """Images (B, C, H, W) in [0, 1], C = 1 or 3, after JPEG compression with this quality of
    libjpeg."""
    pixels = as_bytes(images).permute(0, 2, 3, 1).cpu().numpy()
    grey = pixels.shape[3] == 1
    back = torch.from_numpy(
        np.stack([_through_jpeg(one[..., 0] if grey else one, quality) for one in pixels]).reshape(
            pixels.shape
        )
    )
    return as_unit(back.permute(0, 3, 1, 2)).to(images)


def _through_jpeg(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], quality: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
