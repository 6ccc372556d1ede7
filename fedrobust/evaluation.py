"""What a model says about images, and the settings of judging it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedrobust.checks import flag, number
from fedrobust.images import as_unit
from fedrobust.models import Classifier


@dataclass(frozen=True, slots=True)
class Evaluation:
    """draws: bootstrap resamples of the test images, 0 for no intervals; validation_images: how many validation images judge
    the global model after each round; batch_size: images in one forward pass; twin: whether the clean twin is run."""

    draws: int
    validation_images: int
    batch_size: int
    twin: bool


def settings(*, draws: int, validation_images: int, batch_size: int, twin: bool = True) -> Evaluation:
    """Checked evaluation settings (`configs/evaluation/`)."""
    number("evaluation.draws", draws, low=0, integer=True)
    number("evaluation.validation_images", validation_images, low=1, integer=True)
    number("evaluation.batch_size", batch_size, low=1, integer=True)
    return Evaluation(draws, validation_images, batch_size, flag("evaluation.twin", twin))


@torch.no_grad()
def predict(model: Classifier, images: Tensor, batch_size: int = 128) -> Tensor:
    """Class probabilities (N, K) float32 on the CPU for images (N, C, H, W), uint8 or float32 in [0, 1].

    Eval mode, on the model's own device; the model's mode is restored. An empty batch gives (0, K).
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        parts = [
            model.probabilities(model(as_unit(part.to(device)))).float().cpu() for part in torch.split(images, batch_size) if len(part)
        ]
    finally:
        model.train(was_training)
    return torch.cat(parts) if parts else torch.zeros(0, model.num_classes)
