"""Twice and half the size: by hand, and as torch's antialiased resampling has it at every size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fedrobust.defences.purification import base, resampling_cpu
from fedrobust.utils.seeding import generator


def test_twice_the_size_by_hand() -> None:
    # (0, 8): new centres lie at -.25, .25, .75 and 1.25 old pixels: 0 (repeated), .25 * 8 = 2, .75
    # * 8 = 6, 8; one row becomes two
    assert resampling_cpu.double_resolution(torch.tensor([[[[0.0, 8.0]]]])).tolist() == [
        [[[0, 2, 6, 8], [0, 2, 6, 8]]]
    ]


def test_half_the_size_by_hand() -> None:
    # (0, 8, 16, 0) along one axis, even along the other. Left: old pixels 0, 1, 2 with weights
    # .375, .375, .125 over their sum .875: (0 + 3 + 2) / .875 = 40 / 7. Right: 1, 2, 3 with .125,
    # .375, .375: (1 + 6 + 0) / .875 = 8
    image = torch.tensor([0.0, 8.0, 16.0, 0.0], dtype=torch.float64).expand(1, 1, 4, 4)
    assert resampling_cpu.halve_resolution(image).flatten().tolist() == pytest.approx(
        [40 / 7, 8] * 2, rel=1e-12
    )
    assert resampling_cpu.halve_resolution(image.mT).flatten().tolist() == pytest.approx(
        [40 / 7] * 2 + [8] * 2, rel=1e-12
    )


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)),
    up=st.booleans(),
    double=st.booleans(),
    seed=st.integers(0, 99),
)
def test_they_are_the_linear_resampling_of_torch(
    size: tuple[int, int, int], up: bool, double: bool, seed: int
) -> None:
    channels, height, width = size
    dtype, tolerance = (torch.float64, 1e-14) if double else (torch.float32, 1e-6)
    old = (height, width) if up else (2 * height + 2, 2 * width + 2)
    new = (2 * height, 2 * width) if up else (height + 1, width + 1)
    images = torch.rand(2, channels, *old, dtype=dtype, generator=generator(seed, "pictures"))
    ours = (
        resampling_cpu.double_resolution(images) if up else resampling_cpu.halve_resolution(images)
    )
    theirs = functional.interpolate(
        images, size=new, mode="bilinear", align_corners=False, antialias=True
    )
    assert ours.dtype == dtype
    assert torch.allclose(ours, theirs, atol=tolerance, rtol=0)
    assert torch.equal(base.resize_images(images, new), ours)


@pytest.mark.parametrize("size", [(5, 7), (28, 28), (3, 9), (1, 1), (6, 14), (12, 13)])
def test_every_other_ratio_and_every_gradient_is_torchs(size: tuple[int, int]) -> None:
    images = torch.rand(1, 2, 6, 14, generator=generator(0, "pictures"))
    theirs = functional.interpolate(
        images, size=size, mode="bilinear", align_corners=False, antialias=True
    )
    assert torch.allclose(base.resize_images(images, size), theirs, atol=1e-7)
    leaf = images.clone().requires_grad_()
    for new in (size, (12, 28), (3, 7)):
        assert base.resize_images(leaf, new).requires_grad
