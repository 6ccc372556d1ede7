"""Attacks on a trained model at test time, one a file, each a factory of a `base.Evasion`. Here:
none at all, and how to run one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from fedrobust.contamination.base import Attack, Evasion
from fedrobust.utils.images import as_unit


def none() -> Evasion:
    """No attack: nothing is computed."""
    return Evasion("none")


def attack_images(
    attack: Attack,
    model: Any,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    generator: Generator,
    batch_size: int,
) -> Tensor:
    """The images (N, C, H, W), uint8 or float32 in [0, 1], after the attack: float32 in [0, 1],
    where the images lie.

    One batch after the other on the model's own device. No images give no images.
    """
    device = next(model.parameters()).device
    batches = zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
    made = [
        attack(model, as_unit(x.to(device)), y.to(device), eps, generator).to(images.device)
        for x, y in batches
        if len(x)
    ]
    return torch.cat(made) if made else as_unit(images)
