"""Augmentation of a batch where it lies (CPU or GPU), one random choice per image."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def augment(images: Tensor, generator: Generator) -> Tensor:
    """Images (B, C, H, W) of any dtype -> new images of the same shape, flipped, turned by 90
    degrees and shifted.

    Each image gets one of the eight symmetries of the square at random (four of the rectangle where
    H != W) and a shift of up to an eighth of each side, its border pixels repeated. No value is
    interpolated. The choices are drawn on the CPU: the same on every device.
    """
    count, _, height, width = images.shape
    rows = _lines(count, height, generator).to(images.device)
    columns = _lines(count, width, generator).to(images.device)
    turned = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    each = torch.arange(count, device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
    if height != width:
        return moved
    return torch.where(turned[:, None, None, None], moved.transpose(2, 3), moved)


def _lines(count: int, size: int, generator: Generator) -> Tensor:
    """Source lines (count, size) of each of `count` images: shifted, clamped to the
    image, half of them backwards."""
    reach = size // 8
    shift = torch.randint(-reach, reach + 1, (count, 1), generator=generator)
    backwards = torch.rand(count, 1, generator=generator) < 0.5
    lines = (torch.arange(size) + shift).clamp(0, size - 1)
    return torch.where(backwards, size - 1 - lines, lines)
