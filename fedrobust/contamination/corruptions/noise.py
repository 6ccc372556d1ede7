"""Sensor noise graded in severity: speckle, shot and impulse noise (Gaussian noise:
gaussian_noise.py).

The levels are those of DermaMNIST-C (Di Salvo et al. 2024, "MedMNIST-C", as published with its
API).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedrobust.contamination.common import corruption_factory

SPECKLE = (0.05, 0.15, 0.20, 0.35, 0.45)  # deviation relative to the pixel value
SHOT = (60.0, 25.0, 18.0, 10.0, 5.0)  # photons that white stands for
IMPULSE = (0.01, 0.03, 0.06, 0.09, 0.17)  # share of the values that become 0 or 1


@corruption_factory(SPECKLE)
def speckle_noise(images: Tensor, level: float, generator: Generator) -> Tensor:
    """Every value x becomes x + x e with Gaussian e of deviation .05, .15, .20, .35 or .45,
    independent for every pixel and channel.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", DermaMNIST-C.
    """
    return (
        torch.randn(images.shape, generator=generator).to(images).mul_(level).add_(1).mul_(images)
    )


@corruption_factory(SHOT)
def shot_noise(images: Tensor, level: float, generator: Generator) -> Tensor:
    """Every value x becomes Poisson(c x) / c with c = 60, 25, 18, 10 or 5 photons, independent for
    every pixel and channel.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", DermaMNIST-C.
    """
    return torch.poisson(images.cpu() * level, generator=generator).to(images) / level


@corruption_factory(IMPULSE)
def impulse_noise(images: Tensor, level: float, generator: Generator) -> Tensor:
    """Every value of pixel and channel becomes 0 or 1, equally likely, with probability .01, .03,
    .06, .09 or .17.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", DermaMNIST-C.
    """
    draw = torch.rand(images.shape, generator=generator).to(images)
    return torch.where(draw < level, (draw < level / 2).to(images), images)
