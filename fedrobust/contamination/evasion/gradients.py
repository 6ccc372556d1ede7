"""Gradients for evasion attacks: the loss's gradient in the image, and the ascent along its signs
within a distance eps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from fedrobust.learning.inference import eval_mode
from fedrobust.learning.losses import cross_entropy

# images (B, C, H, W) -> gradient of every image's own loss, of the same shape
Gradient = Callable[[Tensor], Tensor]


@contextmanager
def differentiable_eval(model: nn.Module) -> Iterator[None]:
    """Within the context the model is in eval mode and gradients flow, regardless of the
    surrounding context; every module's mode returns."""
    with eval_mode(model), torch.enable_grad():
        yield


def attack_loss(model: Any, images: Tensor, labels: Tensor) -> Tensor:
    """The sum over images of the cross-entropy of softmax(scale * scores), so that an image's
    gradient does not depend on its batch."""
    return len(labels) * cross_entropy(model(images), labels, model.scale)


def loss_gradient(model: Any, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of `attack_loss` in the images, (B, C, H, W). Neither the parameters' gradients
    nor `requires_grad` are touched.

    Call it within `differentiable_eval`.
    """
    leaf = images.detach().requires_grad_()
    return torch.autograd.grad(attack_loss(model, leaf, labels), leaf)[0]


def random_start(images: Tensor, eps: float, generator: Generator) -> Tensor:
    """Images moved by uniform noise in [-eps, eps], cut to [0, 1]; the noise is drawn on the CPU,
    so every device has the same."""
    noise = torch.rand(images.shape, generator=generator).mul_(2).sub_(1).to(images)
    return (images + eps * noise).clamp_(0, 1)


def ascend(
    images: Tensor,
    gradient: Gradient,
    eps: float,
    *,
    steps: int,
    step_size: float,
    start: Tensor | None = None,
) -> Tensor:
    """`steps` steps of length `step_size` along the signs of the gradient, each cut back to [images
    - eps, images + eps] and to [0, 1].

    Madry et al. 2018 (arXiv 1706.06083), section 2.1. start: where to begin (None: at the images).
    Up to float32 rounding, no value ends further than eps from where it was.
    """
    low, high = (images - eps).clamp_(0, 1), (images + eps).clamp_(0, 1)
    now = images if start is None else start
    for _ in range(steps):
        now = torch.minimum(torch.maximum(now + step_size * gradient(now).sign(), low), high)
    return now.detach()
