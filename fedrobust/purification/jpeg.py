"""JPEG compression as a purifier: what it rounds away may be the perturbation."""

from __future__ import annotations

from torch import Generator, Tensor

from fedrobust.checks import number
from fedrobust.contamination.digital import compressed
from fedrobust.purification.common import purifier
from fedrobust.types import Purifier


def jpeg(*, quality: int = 75) -> Purifier:
    """The images after JPEG compression, quality 1 to 100 on libjpeg's scale. Images have 1 or 3 channels; no gradient comes through."""
    number("purifier.quality", quality, low=1, high=100, integer=True)

    def apply(images: Tensor, generator: Generator) -> Tensor:
        return compressed(images, quality)

    return purifier("jpeg", apply, differentiable=False)
