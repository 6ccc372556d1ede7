"""The plain purifiers against SciPy's filters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from fedrobust.data.synthetic.lesions import KINDS, draw_lesions
from fedrobust.defences.purification.filters import gaussian, jpeg_compression, median_filter
from fedrobust.types import Purifier
from fedrobust.utils.seeding import generator


def through(purifier: Purifier, images: torch.Tensor) -> torch.Tensor:
    return purifier.purify(images, generator(0, "purifier"))


PICTURES = torch.rand(2, 3, 11, 14, generator=generator(0, "pictures"))


@pytest.mark.parametrize("std", [0.4, 0.8, 2.5])
def test_gaussian_against_scipy(std: float) -> None:
    radius = math.ceil(3 * std)
    theirs = ndimage.gaussian_filter(
        PICTURES.numpy(), (0, 0, std, std), mode="nearest", radius=(0, 0, radius, radius)
    )
    assert np.abs(through(gaussian(std=std), PICTURES).numpy() - theirs).max() < 1e-6


@pytest.mark.parametrize("size", [1, 3, 5])
def test_median_against_scipy(size: int) -> None:
    theirs = ndimage.median_filter(PICTURES.numpy(), (1, 1, size, size), mode="nearest")
    assert np.array_equal(through(median_filter(size=size), PICTURES).numpy(), theirs)


def test_better_jpeg_changes_less() -> None:
    images = torch.cat([draw_lesions(kind, 2, 32, generator(0, kind.name)) for kind in KINDS])
    changes = [
        float((through(jpeg_compression(quality=quality), images) - images).abs().mean())
        for quality in (10, 30, 75, 95)
    ]
    assert changes == sorted(changes, reverse=True)
    assert changes[-1] > 0
