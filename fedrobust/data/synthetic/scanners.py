"""Four imaginary hospitals' cameras: colour cast, dark corners, blur, sensor noise and unshaved
hair."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Scanner:
    """One site's style. share: of all images. cast: factors for red, green, blue. corner: darkening
    of the corners in [0, 1]. blur: Gaussian deviation as a fraction of the image side. noise:
    deviation in [0, 1]. hair: expected hairs per image."""

    name: str
    share: float
    cast: tuple[float, float, float]
    corner: float
    blur: float
    noise: float
    hair: float


SCANNERS = (
    Scanner("harbour", 0.4, (1.00, 0.97, 0.95), 0.10, 0.000, 0.012, 0.3),
    Scanner("hillside", 0.3, (0.88, 0.95, 1.08), 0.25, 0.012, 0.020, 0.3),
    Scanner("meadow", 0.2, (1.05, 0.90, 0.80), 0.75, 0.006, 0.012, 0.6),
    Scanner("island", 0.1, (0.85, 0.82, 0.82), 0.30, 0.004, 0.035, 2.5),
)


def photograph(scenes: Tensor, scanner: Scanner, generator: Generator) -> Tensor:
    """Scenes (B, 3, H, H) in [0, 1] as this camera records them: same shape and range, new
    tensor."""
    images = _hairs(scenes, scanner.hair, generator)
    images = _blur(images, scanner.blur)
    exposure = 1 + 0.16 * (torch.rand(len(images), 1, 1, 1, generator=generator) - 0.5)
    tint = torch.tensor(scanner.cast)[:, None, None] * (
        1 + 0.06 * (torch.rand(len(images), 3, 1, 1, generator=generator) - 0.5)
    )
    images = images * exposure * tint * _corners(images.shape[-1], scanner.corner)
    return (images + scanner.noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def _corners(size: int, strength: float) -> Tensor:
    ticks = (torch.arange(size) + 0.5) / size * 2 - 1
    reach = torch.sqrt(ticks[:, None] ** 2 + ticks[None, :] ** 2)
    return 1 - strength * torch.sigmoid((reach - 1.1) * 12)


def _hairs(images: Tensor, expected: float, generator: Generator) -> Tensor:
    """Dark thin arcs: up to four per image, each there with probability expected / 4."""
    size = images.shape[-1]
    ticks = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    for _ in range(4):
        draws = torch.rand(5, len(images), 1, 1, generator=generator)
        angle = 2 * math.pi * draws[0]
        along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
        offset = across - (draws[1] * 1.6 - 0.8) - (draws[2] - 0.5) * along**2
        there = (draws[3] < expected / 4) * (0.5 + 0.4 * draws[4])
        images = images * (1 - there * torch.exp(-((offset / 0.025) ** 2)))[:, None]
    return images


def _blur(images: Tensor, fraction: float) -> Tensor:
    sigma = fraction * images.shape[-1]
    if sigma < 0.1:  # below a tenth of a pixel the kernel is the identity in 8 bits
        return images
    reach = max(1, math.ceil(3 * sigma))
    taps = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    padded = functional.pad(images, (reach,) * 4, mode="replicate")
    return functional.conv2d(
        functional.conv2d(padded, taps, groups=3), taps.transpose(2, 3), groups=3
    )
