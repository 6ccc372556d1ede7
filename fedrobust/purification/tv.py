"""Total-variation denoising of many images at once.

Rudin, Osher, Fatemi 1992: of an image f the u with the least weight * TV(u) + |u - f|^2 / 2. Solved by Chambolle's fixed-point
iteration on the dual field p (Chambolle 2004, section 3): u = f + div p,  p <- (p - tau grad u) / (1 + tau / weight |grad u|).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

from fedrobust.checks import number
from fedrobust.purification.common import purifier
from fedrobust.types import Purifier

STEP = 0.25  # tau; Chambolle proves convergence up to 1/8 and sees it up to 1/4
CELLS = 2**15  # values of one map on a CPU: the seven maps of `_solved` then stay in a core's cache


def tv(*, weight: float = 0.05, iterations: int = 20) -> Purifier:
    """Total-variation denoising alone, every channel for itself.

    weight: of the total variation, for images in [0, 1]; iterations: Chambolle's, always as many.
    """
    number("purifier.weight", weight, low=0, open_low=True)
    number("purifier.iterations", iterations, low=1, integer=True)

    def apply(images: Tensor, generator: Generator) -> Tensor:
        return rof(images, weight, iterations)

    return purifier("tv", apply)


def rof(images: Tensor, weight: float, iterations: int = 20) -> Tensor:
    """Images (B, C, H, W) after so many steps of Chambolle's iteration from p = 0; weight > 0, in units of the images.

    The gradient is the forward difference (0 behind the last pixel), the norm the Euclidean one of both axes, every channel for itself.
    Differentiable: the iteration is unrolled where the images need a gradient (about eight maps are then kept per step).
    """
    count, channels, height, width = images.shape
    if images.numel() == 0:
        return images
    # Channels and images last: a difference along either axis then runs over long pieces of memory.
    maps = images.permute(2, 3, 0, 1).reshape(height, width, count * channels)
    unrolled = torch.is_grad_enabled() and images.requires_grad
    portion = max(1, CELLS // (height * width)) if images.device.type == "cpu" and not unrolled else count * channels
    solve = _unrolled if unrolled else _solved
    scale = STEP / weight  # of u and f, so that |grad u| need not be multiplied in every step
    parts = [solve(part * scale, iterations) for part in torch.split(maps, portion, dim=2)]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return (whole / scale).view(height, width, count, channels).permute(2, 3, 0, 1).contiguous()


def _solved(f: Tensor, iterations: int) -> Tensor:
    """The u of scaled maps f (H, W, M), in seven maps whatever the number of iterations."""
    u, norm = f.clone(), torch.empty_like(f)
    p_rows, p_columns, rows, columns = (torch.zeros_like(f) for _ in range(4))
    for _ in range(iterations):
        torch.sub(u[1:], u[:-1], out=rows[:-1])
        torch.sub(u[:, 1:], u[:, :-1], out=columns[:, :-1])
        torch.mul(rows, rows, out=norm).addcmul_(columns, columns).sqrt_().add_(1)
        p_rows.sub_(rows, alpha=STEP).div_(norm)
        p_columns.sub_(columns, alpha=STEP).div_(norm)
        torch.sub(f, p_rows, out=u).sub_(p_columns)
        u[1:].add_(p_rows[:-1])
        u[:, 1:].add_(p_columns[:, :-1])
    return u


def _unrolled(f: Tensor, iterations: int) -> Tensor:
    """The same for autograd. Where an image is even the norm has no gradient; `vector_norm` takes 0 there."""
    u, p_rows, p_columns = f, torch.zeros_like(f), torch.zeros_like(f)
    for _ in range(iterations):
        rows = functional.pad(u[1:] - u[:-1], (0, 0, 0, 0, 0, 1))
        columns = functional.pad(u[:, 1:] - u[:, :-1], (0, 0, 0, 1))
        norm = 1 + torch.linalg.vector_norm(torch.stack([rows, columns]), dim=0)
        p_rows, p_columns = (p_rows - STEP * rows) / norm, (p_columns - STEP * columns) / norm
        into = functional.pad(p_rows[:-1], (0, 0, 0, 0, 1, 0)) + functional.pad(p_columns[:, :-1], (0, 0, 1, 0))
        u = f - p_rows - p_columns + into
    return u
