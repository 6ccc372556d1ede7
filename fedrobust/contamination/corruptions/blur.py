"""Blur graded in severity: out of focus, in motion, zooming.

Levels: DermaMNIST-C (Di Salvo et al. 2024, "MedMNIST-C", as published with its API), whose images
have 224 pixels a side. Lengths scale with the shorter side, so that the same camera error is meant
at every size; at 28 pixels little is left of the low severities.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from fedrobust.contamination.common import corruption_factory

PUBLISHED_SIDE = 224
DEFOCUS = (4.0, 5.0, 6.0, 7.0, 8.0)  # radius of the disc
# radius (half the trail), deviation
MOTION = ((10.0, 5.0), (15.0, 5.0), (15.0, 8.0), (15.0, 12.0), (20.0, 15.0))
# end (left out) and step of factors from 1 on
ZOOM = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
SUBPIXELS = 9  # per axis, for the share of a pixel that the disc covers


@corruption_factory(DEFOCUS)
def defocus_blur(images: Tensor, radius: float, generator: Generator) -> Tensor:
    """Convolution with a disc of radius 4, 5, 6, 7 or 8 pixels at a side of 224.

    A pixel's weight is the share of it that the disc covers, where the publication smooths the edge
    of a disc of whole pixels; this holds at any size.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", DermaMNIST-C.
    """
    return _convolve(images, _disc(_scaled(images, radius))[None])


@corruption_factory(MOTION)
def motion_blur(images: Tensor, level: tuple[float, float], generator: Generator) -> Tensor:
    """A trail of 2 r pixels with weights exp(-t^2 / 2 s^2), in a direction drawn for each image
    from -45 to 45 degrees.

    (r, s) = (10, 5), (15, 5), (15, 8), (15, 12) or (20, 15) at a side of 224.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", DermaMNIST-C.
    """
    radius, deviation = (_scaled(images, length) for length in level)
    angles_N = (torch.rand(len(images), generator=generator) - 0.5) * (math.pi / 2)
    return _convolve(images, _trails(angles_N, 2 * radius, deviation))


@corruption_factory(ZOOM)
def zoom_blur(images: Tensor, level: tuple[float, float], generator: Generator) -> Tensor:
    """The mean of the image and of its enlargements about the centre by 1, 1.01, ... up to 1.10,
    1.15, 1.20, 1.24 or 1.30.

    Steps: .01, .01, .02, .02, .03.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", DermaMNIST-C.
    """
    end, step = level
    total, factors = images.clone(), torch.arange(1, end - 1e-6, step, dtype=torch.float64).tolist()
    for factor in factors:
        shrink = images.new_tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]])
        where = functional.affine_grid(
            shrink.expand(len(images), 2, 3), list(images.shape), align_corners=False
        )
        total += functional.grid_sample(images, where, padding_mode="border", align_corners=False)
    return total / (len(factors) + 1)


def _scaled(images: Tensor, length: float) -> float:
    return length * min(images.shape[-2:]) / PUBLISHED_SIDE


def _disc(radius: float) -> Tensor:
    """(k, k) weights that sum to 1; k is odd."""
    reach = max(0, math.ceil(radius - 0.5))
    count = (2 * reach + 1) * SUBPIXELS
    ticks = (torch.arange(count) + 0.5) / SUBPIXELS - (reach + 0.5)
    inside = (ticks[:, None] ** 2 + ticks**2 <= radius**2).to(torch.float32)
    covered = functional.avg_pool2d(inside[None, None], SUBPIXELS)[0, 0]
    # a disc below one pixel is that pixel
    covered[reach, reach] = max(float(covered[reach, reach]), SUBPIXELS**-2)
    return covered / covered.sum()


def _trails(angles_N: Tensor, length: float, deviation: float) -> Tensor:
    """(N, k, k) one-sided trails from the centre; a point between pixels counts for its four
    neighbours."""
    reach = math.ceil(length) + 1
    steps_T = torch.linspace(0, length, 2 * reach + 1)
    weights_T = torch.exp(-(steps_T**2) / (2 * deviation**2))
    ticks_k = torch.arange(-reach, reach + 1)

    def hats(at_NT: Tensor) -> Tensor:
        return (1 - (ticks_k - at_NT[..., None]).abs()).clamp(min=0)

    down_NTk, right_NTk = (
        hats(angles_N.sin()[:, None] * steps_T),
        hats(angles_N.cos()[:, None] * steps_T),
    )
    return torch.einsum("t,nty,ntx->nyx", weights_T / weights_T.sum(), down_NTk, right_NTk)


def _convolve(images: Tensor, kernels: Tensor) -> Tensor:
    """Images (N, C, H, W) with kernels (1 or N, k, k) of odd k; beyond the border the border's
    pixels continue. In the frequency domain, whose cost does not grow with k."""
    reach, (height, width) = kernels.shape[-1] // 2, images.shape[-2:]
    padded = functional.pad(images, (reach,) * 4, mode="replicate")
    size = (padded.shape[-2], padded.shape[-1])
    spread = functional.pad(
        kernels.to(images), (0, size[1] - kernels.shape[-1], 0, size[0] - kernels.shape[-2])
    )
    spread = spread.roll((-reach, -reach), dims=(-2, -1))
    product = torch.fft.rfft2(padded) * torch.fft.rfft2(spread)[:, None]
    blurred: Tensor = torch.fft.irfft2(product, s=size)
    return blurred[..., reach : reach + height, reach : reach + width]
