"""Attacks that know the purifier: PGD on the loss of the model's scores of purified
images.

Athalye, Carlini, Wagner 2018 (arXiv 1802.00420): robustness that was measured by attacks on the
undefended model alone may be nothing but hidden gradients. A purifier's noise is met by expectation
over transformation (EOT): gradients are summed over fresh draws. Its own gradient is either taken
for the identity's (BPDA, which also serves purifiers without one) or is that of all its steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from fedrobust.contamination.evasion import gradients
from fedrobust.types import Purifier


@dataclass(frozen=True, slots=True)
class Effort:
    """Length of an adaptive attack.

    Attributes:
        steps: of gradient ascent.
        draws: of the purifier's noise in each step, whose gradients are summed.
    """

    steps: int = 20
    draws: int = 20


USUAL = Effort()


def bpda_eot(  # noqa: PLR0917  # as `base.AdaptiveAttack` has them
    model: Any,
    images: Tensor,
    labels: Tensor,
    eps: float,
    purifier: Purifier,
    generator: Generator,
    effort: Effort = USUAL,
) -> Tensor:
    """A `base.AdaptiveAttack`: PGD in which the gradient at the purified image is taken for that at
    the image."""

    def gradient(now: Tensor) -> Tensor:
        with torch.no_grad():
            purified = purifier.purify(now, generator)
        return gradients.loss_gradient(model, purified, labels)

    return _pgd(model, images, eps, gradient, generator, effort)


def differentiate_through(  # noqa: PLR0917
    model: Any,
    images: Tensor,
    labels: Tensor,
    eps: float,
    purifier: Purifier,
    generator: Generator,
    effort: Effort = USUAL,
) -> Tensor:
    """A `base.AdaptiveAttack`: PGD with the exact gradient of model and purifier together.

    Raises ValueError for a purifier without a gradient.
    """
    if not purifier.differentiable:
        raise ValueError(f"purifier={purifier.name}: has no gradient; attack it with bpda_eot")

    def gradient(now: Tensor) -> Tensor:
        leaf = now.detach().clone().requires_grad_()
        loss = gradients.attack_loss(model, purifier.purify(leaf, generator), labels)
        return torch.autograd.grad(loss, leaf)[0]

    return _pgd(model, images, eps, gradient, generator, effort)


def _pgd(  # noqa: PLR0917
    model: Any,
    images: Tensor,
    eps: float,
    gradient: Callable[[Tensor], Tensor],
    generator: Generator,
    effort: Effort,
) -> Tensor:
    """PGD as in `evasion.pgd` (random start, steps of eps / 4) with the sum of as many gradients as
    draws in every step."""
    if eps == 0:
        return images

    def summed(now: Tensor) -> Tensor:
        total = gradient(now)
        for _ in range(effort.draws - 1):
            total = total + gradient(now)
        return total

    with gradients.differentiable_eval(model):
        start = gradients.random_start(images, eps, generator)
        return gradients.ascend(
            images, summed, eps, steps=effort.steps, step_size=eps / 4, start=start
        )
