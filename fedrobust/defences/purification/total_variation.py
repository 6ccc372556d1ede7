"""Total-variation denoising of many images at once.

Rudin, Osher, Fatemi 1992: of an image f the u with the least weight * TV(u) + |u - f|^2 / 2. Solved
in the dual field p of Chambolle 2004, u = f + div p with |p| <= weight in every pixel, by projected
gradient steps with inertia (Polyak's heavy ball): p <- P(q + tau grad u), q = p + beta (p - the p
before). With tau = .35, beta = .5 twelve steps come nearer to the minimum than twenty of
Chambolle's fixed-point iteration; the last two steps are smaller ones, since they settle what the
long ones overshoot.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

from fedrobust.defences.purification.base import purifier, runs_compiled
from fedrobust.types import Purifier
from fedrobust.utils.validation import Positive, PositiveCount, check_settings

# tau, beta. For quadratics such steps are stable up to tau = (1 + beta) / 4, since |grad|^2 <= 8
LONG = (0.35, 0.5)
LAST = ((0.25, 0.25), (0.2, 0.1))


@check_settings("purifier")
def tv(*, weight: Positive = 0.05, iterations: PositiveCount = 12) -> Purifier:
    """Total-variation denoising alone, every channel for itself.

    Args:
        weight: of the total variation, for images in [0, 1].
        iterations: steps of `rof`, always as many.

    Returns:
        The purifier.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Rudin, Osher, Fatemi, Physica D 60, 1992; Chambolle, JMIV 20, 2004.
    """

    def apply(images: Tensor, generator: Generator) -> Tensor:
        return rof(images, weight, iterations)

    return purifier("tv", apply)


def rof(images: Tensor, weight: float, iterations: int = 12) -> Tensor:
    """Images (B, C, H, W) after so many steps from p = 0; weight > 0, in units of the images.

    The gradient is the forward difference (0 behind the last pixel), the norm the Euclidean one of
    both axes, every channel for itself. Differentiable: the steps are unrolled where the images
    need a gradient (about ten maps are then kept per step). Float32 or float64.
    """
    if images.numel() == 0:
        return images
    maps = images.flatten(0, 1)
    if runs_compiled(maps):
        from fedrobust.defences.purification.total_variation_cpu import solved

        return solved(maps, weight, _steps(iterations)).view(images.shape)
    return _by_tensors(maps, weight, _steps(iterations)).view(images.shape)


def _steps(iterations: int) -> list[tuple[float, float]]:
    """(tau, beta) of every step."""
    return [*[LONG] * (iterations - len(LAST)), *LAST[max(0, len(LAST) - iterations) :]]


def _by_tensors(maps: Tensor, weight: float, steps: list[tuple[float, float]]) -> Tensor:
    """`total_variation_cpu.solved` as tensor operations, for autograd, for any device and without
    numba."""
    f = maps / weight  # in units of the weight |p| is at most 1
    u, p = f, f.new_zeros(2, *f.shape)
    q = p
    for tau, beta in steps:
        rows = functional.pad(u[:, 1:] - u[:, :-1], (0, 0, 0, 1))
        columns = functional.pad(u[:, :, 1:] - u[:, :, :-1], (0, 1))
        long = torch.lerp(q, p, 1 + beta) - tau * torch.stack([rows, columns])
        p, q = long * long.square().sum(dim=0).clamp(min=1).rsqrt(), p
        into = functional.pad(p[0, :, :-1], (0, 0, 1, 0)) + functional.pad(p[1, :, :, :-1], (1, 0))
        u = f - p[0] - p[1] + into
    return u * weight
