"""Digital corruptions, graded in severity: JPEG compression and coarse pixels. Levels: DermaMNIST-C
(Di Salvo et al. 2024)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedrobust.contamination.common import corruption_factory
from fedrobust.utils.images import compress_jpeg

QUALITY = (30, 20, 15, 10, 7)
COARSE = (0.7, 0.5, 0.4, 0.3, 0.25)  # side in coarse pixels, relative to the side in pixels


@corruption_factory(QUALITY)
def jpeg(images: Tensor, quality: int, generator: Generator) -> Tensor:
    """The image after JPEG compression with quality 30, 20, 15, 10 or 7 (libjpeg's scale, chroma at
    half the resolution).

    Its blocks are 8 x 8 pixels for every image size: the smaller the image, the stronger the
    same quality.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", DermaMNIST-C.
    """
    return compress_jpeg(images, quality)


@corruption_factory(COARSE)
def pixelate(images: Tensor, factor: float, generator: Generator) -> Tensor:
    """The image shrunk to .7, .5, .4, .3 or .25 of its side and enlarged again, both by a box
    filter.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", DermaMNIST-C.
    """
    height, width = images.shape[-2:]
    down, across = (
        _there_and_back(height, factor).to(images),
        _there_and_back(width, factor).to(images),
    )
    return down @ images @ across.T


def _there_and_back(size: int, factor: float) -> Tensor:
    """(size, size): one axis shrunk and enlarged."""
    coarse = max(1, int(size * factor))
    return _box(size, coarse) @ _box(coarse, size)


def _box(wanted: int, given: int) -> Tensor:
    """(wanted, given): each new pixel is the mean of the old ones whose centres lie in it, or the
    one in which its centre lies."""
    scale = given / wanted
    reach = max(scale, 1) / 2
    centres = (torch.arange(wanted, dtype=torch.float64) + 0.5) * scale
    offset = torch.arange(given) + 0.5 - centres[:, None]
    inside = ((offset > -reach) & (offset <= reach)).to(torch.float32)
    return inside / inside.sum(dim=1, keepdim=True)
