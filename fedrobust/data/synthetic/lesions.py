"""Procedural skin lesions: seven kinds that differ in outline, border, colour and texture, all
drawn by formulas.

Light is absorbed by melanin, blood and what else a kind holds: colour = skin * exp(-melanin * a_m -
blood * a_b - rest * a_r) for red, green and blue. The amounts overlap between the kinds and vary
with every lesion, so neither the mean colour nor the mean image separates the kinds. Tensors are
(B, H, W) maps over coordinates in [-1, 1], or (B,) values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

MELANIN = (0.45, 0.85, 1.15)  # absorption in red, green, blue
BLOOD = (0.12, 1.0, 0.75)
HARMONICS = 6


@dataclass(frozen=True, slots=True)
class Canvas:
    """Coordinates of one batch in the lesion's own frame: x, y (B, H, W) with the outline near
    radius 1; `mask` in [0, 1] inside it."""

    x: Tensor
    y: Tensor
    mask: Tensor
    depth: Tensor  # 1 at the centre, 0 on the outline, negative outside
    generator: Generator

    def uniform(self, low: float, high: float) -> Tensor:
        """One value per image, (B, 1, 1)."""
        return low + (high - low) * torch.rand(len(self.x), 1, 1, generator=self.generator)

    def clouds(self, cells: int) -> Tensor:
        """Smooth noise (B, H, W) with about `cells` bumps across the picture, mean 0, deviation
        about 1."""
        coarse = torch.randn(len(self.x), 1, cells, cells, generator=self.generator)
        return (
            functional.interpolate(
                coarse, size=self.x.shape[1:], mode="bicubic", align_corners=False
            )[:, 0]
            * 1.4
        )

    def dots(self, count: int, size: tuple[float, float], spread: float = 0.8) -> Tensor:
        """`count` soft round spots, maximum 1, at random places within `spread` of the centre."""
        total = torch.zeros_like(self.x)
        for _ in range(count):
            angle, reach = self.uniform(0, 2 * math.pi), spread * self.uniform(0, 1).sqrt()
            square = (self.x - reach * angle.cos()) ** 2 + (self.y - reach * angle.sin()) ** 2
            total = torch.maximum(total, torch.exp(-square / self.uniform(*size) ** 2))
        return total

    def lines(self, count: int, width: float, bend: float, reach: float = 1.0) -> Tensor:
        """`count` thin wavy lines across the picture, maximum 1."""
        total = torch.zeros_like(self.x)
        for _ in range(count):
            angle = self.uniform(0, 2 * math.pi)
            along, across = (
                self.x * angle.cos() + self.y * angle.sin(),
                self.y * angle.cos() - self.x * angle.sin(),
            )
            path = self.uniform(-reach, reach) + bend * torch.sin(
                along * self.uniform(2, 4) + self.uniform(0, 6)
            )
            total = torch.maximum(total, torch.exp(-(((across - path) / width) ** 2)))
        return total


@dataclass(frozen=True, slots=True)
class LesionKind:
    """One class: how ragged and how soft its outline is, how much melanin and blood it holds, what
    else absorbs red, green and blue in it (keratin, deep pigment), and what `texture` does to
    melanin and blood."""

    name: str
    ragged: float
    soft: float
    melanin: tuple[float, float]
    blood: tuple[float, float]
    tint: tuple[float, float, float]
    texture: Callable[[Canvas, Tensor, Tensor], tuple[Tensor, Tensor]]


def _network(canvas: Canvas, melanin: Tensor, blood: Tensor) -> tuple[Tensor, Tensor]:
    """A net of fine dark lines, fading towards the border."""
    pitch, bent = canvas.uniform(7, 10), 0.12 * canvas.clouds(4)
    knots = (torch.sin(pitch * (canvas.x + bent)) * torch.sin(pitch * (canvas.y - bent))).abs()
    return melanin * (0.55 + 1.5 * (1 - knots) ** 3 * (0.4 + canvas.depth.clamp(0, 1))), blood


def _blotches(canvas: Canvas, melanin: Tensor, blood: Tensor) -> tuple[Tensor, Tensor]:
    """Sharp-edged patches from light brown to black, one side darker than the other."""
    patches = torch.sigmoid(6 * canvas.clouds(5))
    tilt = 1 + 0.5 * (canvas.x * canvas.uniform(-1, 1) + canvas.y * canvas.uniform(-1, 1))
    return melanin * tilt * (0.35 + 1.5 * patches), blood * (1 + patches)


def _cysts(canvas: Canvas, melanin: Tensor, blood: Tensor) -> tuple[Tensor, Tensor]:
    """Bright small cysts in an even brown plate."""
    return melanin * (1.1 - 1.5 * canvas.dots(9, (0.08, 0.16))), blood


def _vessels(canvas: Canvas, melanin: Tensor, blood: Tensor) -> tuple[Tensor, Tensor]:
    """Branching red lines over pale tissue, with a few grey-brown nests."""
    return melanin * (0.4 + 2.2 * canvas.dots(3, (0.12, 0.22))), blood * (
        0.5 + 2.6 * canvas.lines(4, 0.07, 0.35, 0.7)
    )


def _lacunae(canvas: Canvas, melanin: Tensor, blood: Tensor) -> tuple[Tensor, Tensor]:
    """Clumps of round blood-filled spaces."""
    clumps = canvas.dots(8, (0.18, 0.3))
    return melanin * (0.5 + 0.8 * clumps), blood * (0.35 + 2.0 * clumps**2)


def _scar(canvas: Canvas, melanin: Tensor, blood: Tensor) -> tuple[Tensor, Tensor]:
    """A pale centre inside a brown ring."""
    pale = torch.sigmoid(9 * (canvas.depth - canvas.uniform(0.4, 0.6) + 0.08 * canvas.clouds(5)))
    return melanin * (1.5 - 1.5 * pale), blood * (1 - 0.5 * pale)


def _scales(canvas: Canvas, melanin: Tensor, blood: Tensor) -> tuple[Tensor, Tensor]:
    """Coarse bright flakes on reddened skin."""
    flakes = torch.sigmoid(5 * (canvas.clouds(13) - 0.5))
    return melanin * (1 + 0.4 * canvas.clouds(4)) - 0.35 * flakes, blood * (1.3 - 1.5 * flakes)


KINDS = (
    LesionKind("network", 0.05, 0.10, (0.6, 1.1), (0.05, 0.20), (0.0, 0.0, 0.0), _network),
    LesionKind("blotches", 0.22, 0.05, (0.8, 1.4), (0.05, 0.30), (0.9, 0.5, 0.2), _blotches),
    LesionKind("cysts", 0.06, 0.03, (0.1, 0.4), (0.05, 0.20), (0.0, 0.3, 1.3), _cysts),
    LesionKind("vessels", 0.12, 0.12, (0.0, 0.3), (0.25, 0.50), (0.0, 0.0, 0.0), _vessels),
    LesionKind("scar", 0.05, 0.16, (0.5, 1.0), (0.10, 0.35), (0.1, 0.0, 0.0), _scar),
    LesionKind("scales", 0.16, 0.18, (0.1, 0.4), (0.60, 1.00), (0.0, 0.2, 0.8), _scales),
    LesionKind("lacunae", 0.09, 0.06, (0.0, 0.3), (0.60, 1.10), (0.9, 0.4, 0.0), _lacunae),
)


def draw_lesions(kind: LesionKind, count: int, size: int, generator: Generator) -> Tensor:
    """`count` lesions of one kind on skin: (count, 3, size, size) float32 in [0, 1], before any
    camera."""
    canvas = _canvas(kind, count, size, generator)
    melanin, blood = canvas.uniform(*kind.melanin), canvas.uniform(*kind.blood)
    melanin, blood = kind.texture(canvas, melanin.expand_as(canvas.x), blood.expand_as(canvas.x))
    tone = canvas.uniform(0, 0.45) + 0.03 * canvas.clouds(6)
    melanin = (tone + canvas.mask * melanin).clamp(min=0)
    blood = (canvas.uniform(0.05, 0.25) + canvas.mask * blood).clamp(min=0)
    rest = canvas.mask * canvas.uniform(0.6, 1.2)
    channels = [
        0.95 * torch.exp(-m * melanin - b * blood - t * rest)
        for m, b, t in zip(MELANIN, BLOOD, kind.tint, strict=True)
    ]
    return torch.stack(channels, dim=1)


def _canvas(kind: LesionKind, count: int, size: int, generator: Generator) -> Canvas:
    """A random place, size, direction and outline radius(angle) = 1 + sum of a_m cos(m angle +
    phase) for every lesion."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    ticks = (torch.arange(size) + 0.5) / size * 2 - 1
    row, column = torch.meshgrid(ticks, ticks, indexing="ij")
    dx, dy = column - uniform(-0.22, 0.22), row - uniform(-0.22, 0.22)
    turn, radius, aspect = uniform(0, 2 * math.pi), uniform(0.42, 0.72), uniform(0.72, 1.0)
    x = (dx * turn.cos() + dy * turn.sin()) / radius
    y = (dy * turn.cos() - dx * turn.sin()) / (radius * aspect)
    angle, outline = torch.atan2(y, x), torch.ones_like(x)
    for wave in range(2, 2 + HARMONICS):
        outline = outline + kind.ragged * uniform(-1, 1) * 1.6 / math.sqrt(wave) * torch.cos(
            wave * angle + uniform(0, 2 * math.pi)
        )
    depth = outline - torch.sqrt(x**2 + y**2)
    return Canvas(x, y, torch.sigmoid(depth / (0.4 * kind.soft + 0.02)), depth, generator)
