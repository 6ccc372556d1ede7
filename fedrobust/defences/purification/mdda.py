"""MDDA, multiscale diffusive and denoising aggregation: noise that drowns a perturbation, total
variation that takes both away.

Wang, Li, Shen, Qiao: Comput Biol Med 164:107310, 2023 (arXiv 2208.10373). Known of it are the parts
and their order; the numbers (deviation of the noise, number of blocks, weight of the total
variation, weights of the aggregation, last filter) are ours.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedrobust.defences.purification.base import purifier, resize_images, smooth_images
from fedrobust.defences.purification.total_variation import rof
from fedrobust.types import Purifier
from fedrobust.utils.validation import (
    Count,
    NonNegative,
    Positive,
    PositiveCount,
    Share,
    check_settings,
)

SCALES = (0.25, 0.5, 1.0, 2.0)
# weights of a scale and of each of its neighbours, divided by their sum at both ends
OWN, NEIGHBOUR = 0.5, 0.25
TAPS = (0.25, 0.5, 0.25)  # the 3 x 3 Gaussian: binomial, deviation .71 pixels
RUN = 16  # normal numbers that torch makes at once on a CPU


@check_settings("purifier")
def mdda(
    *,
    std: NonNegative = 0.01,
    blocks: Count = 1,
    weight: Positive = 0.05,
    iterations: PositiveCount = 12,
    smoothing: Share = 1.0,
) -> Purifier:
    """An image pyramid at 1/4, 1/2, 1 and 2 times the size goes through `blocks` blocks of three
    steps: Gaussian noise on every scale, total-variation denoising of every scale, each scale mixed
    with its neighbours. Then the mean of all scales at the image's size, smoothed by a 3 x 3
    Gaussian. An image's noise depends on its place in the order of images that the generator has
    served, not on how they were split into batches.

    Args:
        std: deviation of the noise, in units of the image range [0, 1].
        blocks: how often the three steps are done.
        weight: of the total variation, for images in [0, 1].
        iterations: steps of each denoising (`total_variation.rof`).
        smoothing: share of the smoothed image in the result; 0: no smoothing.

    Returns:
        The purifier.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Wang, Li, Shen, Qiao, Comput Biol Med 164:107310, 2023 (arXiv 2208.10373).
    """

    def apply(images: Tensor, generator: Generator) -> Tensor:
        sizes = [_scaled(images, scale) for scale in SCALES]
        pyramid = [resize_images(images, size) for size in sizes]
        noises = iter(noise(images, sizes * blocks, generator) if std > 0 and blocks > 0 else ())
        for _ in range(blocks):
            if std > 0:
                pyramid = [one.add(next(noises), alpha=std) for one in pyramid]
            pyramid = aggregate_scales([rof(one, weight, iterations) for one in pyramid])
        size = _scaled(images, 1)
        mean = sum((resize_images(one, size) for one in pyramid), start=images.new_zeros(())) / len(
            pyramid
        )
        return torch.lerp(mean, smooth_images(mean, TAPS), smoothing) if smoothing > 0 else mean

    return purifier("mdda", apply)


def _scaled(images: Tensor, scale: float) -> tuple[int, int]:
    height, width = images.shape[-2:]
    return max(1, round(scale * height)), max(1, round(scale * width))


def noise(images: Tensor, sizes: list[tuple[int, int]], generator: Generator) -> list[Tensor]:
    """Standard normal numbers of the images' batch and channels in each of these sizes.

    Every image gets one run of the generator's stream, of a length that torch draws alike alone and
    among others.
    """
    count, channels = images.shape[:2]
    lengths = [channels * height * width for height, width in sizes]
    total = sum(lengths)
    drawn = torch.randn(
        count, -(-total // RUN) * RUN, generator=generator, device=generator.device
    ).to(images)
    parts = torch.split(drawn[:, :total], lengths, dim=1)
    return [part.reshape(count, channels, *size) for part, size in zip(parts, sizes, strict=True)]


def aggregate_scales(pyramid: list[Tensor]) -> list[Tensor]:
    """Every scale (B, C, h, w) as the weighted mean of itself and its neighbours, all from before
    this step."""
    out = []
    for place, own in enumerate(pyramid):
        size = (own.shape[-2], own.shape[-1])
        neighbours = (*pyramid[max(0, place - 1) : place], *pyramid[place + 1 : place + 2])
        total = OWN + NEIGHBOUR * len(neighbours)
        mixed = own * (OWN / total)
        for one in neighbours:
            mixed = mixed.add(resize_images(one, size), alpha=NEIGHBOUR / total)
        out.append(mixed)
    return out
