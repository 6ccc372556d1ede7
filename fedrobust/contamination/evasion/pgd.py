"""PGD: many small steps along the signs of the loss's gradient, from a random start."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import Generator, Tensor

from fedrobust.contamination.base import Attack, Evasion
from fedrobust.contamination.evasion import gradients
from fedrobust.utils.validation import PositiveCount, check, check_settings

StepSize = Annotated[float, Field(gt=0, le=2)]  # of PGD, as a share of eps


@check_settings("evasion")
def pgd(
    *, steps: PositiveCount = 20, step_size: StepSize = 0.25, random_start: bool = True
) -> Evasion:
    """Projected gradient ascent on the cross-entropy of the true class within eps of every value.

    Args:
        steps: gradients per image.
        step_size: of a step, as a share of eps.
        random_start: begin at a uniformly drawn point within eps instead of at the image.

    Returns:
        The attack.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Madry et al., ICLR 2018.
    """
    return Evasion("pgd", project(steps, step_size, random_start))


def check_steps(prefix: str, steps: Any, step_size: Any) -> None:
    """The two settings of PGD that every group which uses it has. `prefix` of their names. Raises
    ConfigError."""
    check(f"{prefix}steps", steps, PositiveCount)
    check(f"{prefix}step_size", step_size, StepSize)


def project(steps: int, step_size: float, random_start: bool = True) -> Attack:
    """PGD with these settings, unchecked."""

    def attack(
        model: Any, images: Tensor, labels: Tensor, eps: float, generator: Generator
    ) -> Tensor:
        if eps == 0:
            return images
        start = gradients.random_start(images, eps, generator) if random_start else None

        def gradient(now: Tensor) -> Tensor:
            return gradients.loss_gradient(model, now, labels)

        with gradients.differentiable_eval(model):
            return gradients.ascend(
                images, gradient, eps, steps=steps, step_size=step_size * eps, start=start
            )

    return attack
