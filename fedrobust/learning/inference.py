"""A model's answers for many images, batch by batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedrobust.learning.classifier import Classifier
from fedrobust.utils.images import as_unit


@torch.no_grad()
def predict(
    model: Classifier,
    images: Tensor,
    batch_size: int = 128,
    purify: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Class probabilities (N, K) float32 on the CPU for images (N, C, H, W), uint8 or float32 in
    [0, 1].

    Eval mode, on the model's own device; the model's mode is restored. An empty batch gives (0, K).
    purify: what a batch goes through before the model sees it.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        batches = (
            as_unit(part.to(device)) for part in torch.split(images, batch_size) if len(part)
        )
        parts = [
            model.probabilities(model(batch if purify is None else purify(batch))).float().cpu()
            for batch in batches
        ]
    finally:
        model.train(was_training)
    return torch.cat(parts) if parts else torch.zeros(0, model.num_classes)
