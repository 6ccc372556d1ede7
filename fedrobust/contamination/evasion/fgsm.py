"""FGSM: one step along the signs of the loss's gradient."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from fedrobust.contamination.base import Evasion
from fedrobust.contamination.evasion.gradients import ascend, differentiable_eval, loss_gradient


def fgsm() -> Evasion:
    """Every value moves by eps in the direction in which the cross-entropy of the true class
    grows.

    Reference:
        Goodfellow, Shlens, Szegedy, ICLR 2015.
    """

    def attack(
        model: Any, images: Tensor, labels: Tensor, eps: float, generator: Generator
    ) -> Tensor:
        if eps == 0:
            return images
        with differentiable_eval(model):
            return ascend(
                images, lambda now: loss_gradient(model, now, labels), eps, steps=1, step_size=eps
            )

    return Evasion("fgsm", attack)
