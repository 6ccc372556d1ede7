"""Pixels: stored as uint8, computed as float32 in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def as_unit(images: Tensor) -> Tensor:
    """uint8 in [0, 255] or float in [0, 1], any shape -> float32 in [0, 1] (a float32 input is returned as it is)."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255.0)
    return images.to(torch.float32)


def as_bytes(images: Tensor) -> Tensor:
    """Float in [0, 1] -> uint8 in [0, 255], rounded to nearest; the inverse of `as_unit` on uint8 images."""
    if images.dtype == torch.uint8:
        return images
    return images.clamp(0, 1).mul(255.0).round().to(torch.uint8)
