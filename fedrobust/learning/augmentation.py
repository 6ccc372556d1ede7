"""Augmentation of a batch where it lies (CPU or GPU), one random choice per image; of features
computed beforehand one of several views."""

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


def draw_batch(samples: Tensor, index: Tensor, generator: Generator | None) -> Tensor:
    """The images, or features, of a batch.

    Args:
        samples: images (N, C, H, W), features (N, F), or features of several views (N, V, F).
        index: (B,) positions on the device of `samples`.
        generator: draws the augmentation of each image, or its view; None: images as they are, or
            the first view.

    Returns:
        (B, C, H, W) or (B, F), on the same device.
    """
    if samples.ndim == 4:
        return samples[index] if generator is None else augment(samples[index], generator)
    if samples.ndim == 2:
        return samples.index_select(0, index)
    count, views, width = samples.shape
    places = index * views
    if generator is not None:
        places = places + torch.randint(views, (len(index),), generator=generator).to(index.device)
    return samples.reshape(count * views, width).index_select(0, places)


def first_view(samples: Tensor) -> Tensor:
    """Images, or features (N, F), as they are; of features of several views (N, V, F) the first,
    which is not augmented."""
    return samples[:, 0] if samples.ndim == 3 else samples


def _lines(count: int, size: int, generator: Generator) -> Tensor:
    """Source lines (count, size) of each of `count` images: shifted, clamped to the
    image, half of them backwards."""
    reach = size // 8
    shift = torch.randint(-reach, reach + 1, (count, 1), generator=generator)
    backwards = torch.rand(count, 1, generator=generator) < 0.5
    lines = (torch.arange(size) + shift).clamp(0, size - 1)
    return torch.where(backwards, size - 1 - lines, lines)
