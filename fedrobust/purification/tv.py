"""Total-variation denoising of many images at once.

Rudin, Osher, Fatemi 1992: of an image f the u with the least weight * TV(u) + |u - f|^2 / 2. Solved in the dual field p of Chambolle 2004,
u = f + div p with |p| <= weight in every pixel, by projected gradient steps with inertia (Polyak's heavy ball): p <- P(q + tau grad u),
q = p + beta (p - the p before). With tau = .35, beta = .5 twelve steps come nearer to the minimum than twenty of Chambolle's fixed-point
iteration; the last two steps are smaller ones, since they settle what the long ones overshoot.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

from fedrobust.checks import number
from fedrobust.purification.common import purifier
from fedrobust.types import Purifier

LONG = (0.35, 0.5)  # tau, beta. For quadratics such steps are stable up to tau = (1 + beta) / 4, since |grad|^2 <= 8
LAST = ((0.25, 0.25), (0.2, 0.1))
CELLS = 2**15  # values of one map on a CPU: the seven maps of `_solved` then stay in a core's cache


def tv(*, weight: float = 0.05, iterations: int = 12) -> Purifier:
    """Total-variation denoising alone, every channel for itself.

    weight: of the total variation, for images in [0, 1]; iterations: steps of `rof`, always as many.
    """
    number("purifier.weight", weight, low=0, open_low=True)
    number("purifier.iterations", iterations, low=1, integer=True)

    def apply(images: Tensor, generator: Generator) -> Tensor:
        return rof(images, weight, iterations)

    return purifier("tv", apply)


def rof(images: Tensor, weight: float, iterations: int = 12) -> Tensor:
    """Images (B, C, H, W) after so many steps from p = 0; weight > 0, in units of the images.

    The gradient is the forward difference (0 behind the last pixel), the norm the Euclidean one of both axes, every channel for itself.
    Differentiable: the steps are unrolled where the images need a gradient (about ten maps are then kept per step).
    """
    count, channels, height, width = images.shape
    if images.numel() == 0:
        return images
    # Channels and images last: a difference along either axis then runs over long pieces of memory.
    maps = images.permute(2, 3, 0, 1).reshape(height, width, count * channels)
    unrolled = torch.is_grad_enabled() and images.requires_grad
    portion = max(1, CELLS // (height * width)) if images.device.type == "cpu" and not unrolled else count * channels
    solve = _unrolled if unrolled else _solved
    # In units of the weight |p| is at most 1.
    parts = [solve((part / weight).contiguous(), iterations) for part in torch.split(maps, portion, dim=2)]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return (whole * weight).view(height, width, count, channels).permute(2, 3, 0, 1).contiguous()


def _steps(iterations: int) -> list[tuple[float, float]]:
    """(tau, beta) of every step."""
    return [*[LONG] * (iterations - len(LAST)), *LAST[max(0, len(LAST) - iterations) :]]


def _solved(f: Tensor, iterations: int) -> Tensor:
    """The u of maps f (H, W, M) for weight 1, in seven maps whatever the number of steps."""
    u, norm = f.clone(), torch.empty_like(f)
    above, below, left, right = u[:-1], u[1:], u[:, :-1], u[:, 1:]
    # p and the p before: along rows and along columns, and both without the last ones, which stay 0. Views cost as much as arithmetic.
    now, before = ((p, p[0], p[1], p[0, :-1], p[1, :, :-1]) for p in (f.new_zeros(2, *f.shape), f.new_zeros(2, *f.shape)))
    for tau, beta in _steps(iterations):
        p, rows, columns, inner_rows, inner_columns = before
        torch.lerp(p, now[0], 1 + beta, out=p)
        inner_rows.add_(above, alpha=tau).sub_(below, alpha=tau)
        inner_columns.add_(left, alpha=tau).sub_(right, alpha=tau)
        torch.mul(rows, rows, out=norm).addcmul_(columns, columns).clamp_min_(1).rsqrt_()
        p.mul_(norm)
        torch.sub(f, rows, out=u).sub_(columns)
        below.add_(inner_rows)
        right.add_(inner_columns)
        now, before = before, now
    return u


def _unrolled(f: Tensor, iterations: int) -> Tensor:
    """The same for autograd."""
    u, p = f, f.new_zeros(2, *f.shape)
    q = p
    for tau, beta in _steps(iterations):
        rows = functional.pad(u[1:] - u[:-1], (0, 0, 0, 0, 0, 1))
        columns = functional.pad(u[:, 1:] - u[:, :-1], (0, 0, 0, 1))
        long = torch.lerp(q, p, 1 + beta) - tau * torch.stack([rows, columns])
        p, q = long * long.square().sum(dim=0).clamp(min=1).rsqrt(), p
        into = functional.pad(p[0, :-1], (0, 0, 0, 0, 1, 0)) + functional.pad(p[1, :, :-1], (0, 0, 1, 0))
        u = f - p[0] - p[1] + into
    return u
