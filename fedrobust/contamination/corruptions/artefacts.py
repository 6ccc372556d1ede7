"""Artefacts between the lesion and the sensor or written over the image, graded in severity: hair,
ruler, gel bubbles, dark corners, text.

Levels of the dark corners and of text are those of DermaMNIST-C, of the bubbles those of
PathMNIST-C (Di Salvo et al. 2024, "MedMNIST-C", as published with its API, lengths at a side of 224
pixels); hair and ruler are not published there, their levels are ours.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from fedrobust.contamination.common import corruption_factory
from fedrobust.contamination.corruptions import drawing

PUBLISHED_SIDE = 224
HAIR = (2, 4, 7, 11, 16)  # most strands on an image
RULER = (0.08, 0.11, 0.14, 0.18, 0.22)  # length of the long ticks
# largest radius in pixels, most bubbles
BUBBLES = ((7, 15), (10, 15), (12, 15), (15, 20), (17, 25))
CORNERS = (1.10, 1.05, 1.00, 0.95, 0.90)  # radius of what is left, in halves of the shorter side
# most words, most letters, largest font scale
TEXT = ((1, 6, 0.14), (2, 7, 0.15), (3, 8, 0.16), (4, 9, 0.17), (6, 10, 0.18))
CAPITAL = 21  # height in pixels of a capital at font scale 1


@corruption_factory(HAIR)
def hair(images: Tensor, most: int, generator: Generator) -> Tensor:
    """Dark curved strands: half of to all of 2, 4, 7, 11 or 16 on each image, .4 to .9 % of the
    side wide but never below half a pixel.
    """
    count = len(images)
    wanted = torch.randint((most + 1) // 2, most + 1, (count, 1, 1), generator=generator)
    for strand in range(most):
        along, across = _turned(images, _uniform(count, 0, 2 * math.pi, generator))
        path = (
            _uniform(count, -0.5, 0.5, generator) + _uniform(count, -0.6, 0.6, generator) * along**2
        )
        end = _uniform(count, 0.0, 0.7, generator)
        width = _uniform(count, 0.004, 0.009, generator).clamp(min=drawing.pixel(images) / 2)
        dark = _uniform(count, 0.6, 0.95, generator) * (strand < wanted)
        mask = (
            dark
            * torch.exp(-(((across - path) / width) ** 2))
            * torch.sigmoid((end - along) / 0.02)
        )
        images = drawing.ink(images, mask, torch.tensor([0.10, 0.07, 0.05]))
    return images


@corruption_factory(RULER)
def ruler(images: Tensor, length: float, generator: Generator) -> Tensor:
    """Black ticks every twentieth of the side along one border, drawn for each image and tilted by
    up to 8 degrees.

    Every fifth tick has .08, .11, .14, .18 or .22 of the side, the others half of it.
    """
    count = len(images)
    quarter = torch.randint(4, (count, 1, 1), generator=generator)
    along, across = _turned(
        images, quarter * (math.pi / 2) + _uniform(count, -0.14, 0.14, generator)
    )
    height, width = images.shape[-2:]
    half = torch.where(quarter % 2 == 0, height, width) / (2 * min(height, width))
    inward = across + half - _uniform(count, 0.0, 0.04, generator)
    shift = _uniform(count, 0.0, 0.25, generator)
    thick = max(0.008, drawing.pixel(images))
    return drawing.ink(
        images,
        drawing.ruler_ticks(along - shift, inward, 0.05, length, thick),
        torch.full((3,), 0.05),
    )


@corruption_factory(BUBBLES)
def bubbles(images: Tensor, level: tuple[int, int], generator: Generator) -> Tensor:
    """7 to 15, 15, 15, 20 or 25 discs that mix 100 of 255 parts of white into the image, 130 in
    their rims of 2 pixels at a side of 224.

    Their radii are drawn from 3 to 7, 10, 12, 15 or 17 pixels at a side of 224.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", PathMNIST-C.
    """
    (largest, most), count = level, len(images)
    y, x = drawing.canvas(images)
    wanted = torch.randint(7, most + 1, (count, 1, 1), generator=generator)
    white = images.new_zeros(count, *images.shape[-2:])
    height, width = (size * drawing.pixel(images) for size in images.shape[-2:])
    for bubble in range(most):
        radius = torch.randint(3, largest + 1, (count, 1, 1), generator=generator) / PUBLISHED_SIDE
        place_y, place_x = (
            radius + _uniform(count, 0, 1, generator) * (size - 2 * radius)
            for size in (height, width)
        )
        reach = torch.sqrt((y - place_y) ** 2 + (x - place_x) ** 2)
        here = torch.where(
            reach <= radius,
            100 / 255,
            torch.where(reach <= radius + 2 / PUBLISHED_SIDE, 130 / 255, white),
        )
        white = torch.where(bubble < wanted, here, white)  # a later one covers an earlier one
    return drawing.ink(images, white, torch.ones(3))


@corruption_factory(CORNERS)
def vignette(images: Tensor, radius: float, generator: Generator) -> Tensor:
    """Black outside a circle about the centre, of radius 1.10, 1.05, 1.00, .95 or .90 times half
    the shorter side, as dermatoscopes do.

    The published list ends with .90, .95; here it falls.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", DermaMNIST-C.
    """
    y, x = drawing.canvas(images)
    reach = torch.sqrt((y - y.mean()) ** 2 + (x - x.mean()) ** 2)
    return images * (reach <= radius / 2)


@corruption_factory(TEXT)
def burned_text(images: Tensor, level: tuple[int, int, float], generator: Generator) -> Tensor:
    """1 to 1, 2, 3, 4 or 6 words of 3 to 6, 7, 8, 9 or 10 random letters, each in a random colour
    at a random place.

    Letters are as high as published (3 to 4 of 224 pixels) but never below five pixels, without
    which none can be read.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", DermaMNIST-C.
    """
    (words, letters, scale), count = level, len(images)
    height, width = images.shape[-2:]
    cell = max(1, round(scale * CAPITAL / PUBLISHED_SIDE * min(height, width) / drawing.ROWS))
    wanted = torch.randint(1, words + 1, (count,), generator=generator)
    for word in range(words):
        lengths = torch.randint(3, letters + 1, (count,), generator=generator) * (word < wanted)
        drawn = torch.randint(26, (count, letters), generator=generator)
        signs_NL = torch.where(torch.arange(letters) < lengths[:, None], drawn, -1)
        top = torch.rand(count, generator=generator) * max(0, height - drawing.ROWS * cell)
        left = torch.rand(count, generator=generator) * (
            width - drawing.PITCH * cell * lengths
        ).clamp(min=0)
        colours = torch.rand(count, 3, generator=generator)
        images = drawing.ink(
            images, drawing.text(images, signs_NL, top.floor(), left.floor(), cell), colours
        )
    return images


def _uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    """(count, 1, 1) values."""
    return low + (high - low) * torch.rand(count, 1, 1, generator=generator)


def _turned(images: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """(along, across): coordinates from the centre in axes turned by `angle` (N, 1, 1)."""
    y, x = drawing.canvas(images)
    y, x = y - y.mean(), x - x.mean()
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
