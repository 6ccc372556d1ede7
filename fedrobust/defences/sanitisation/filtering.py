"""The defence at work in a hospital: the global model that it received embeds its training images,
and suspicious ones stay out of the round. Nothing leaves the hospital but how many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedrobust.defences.sanitisation.base import Sanitiser, sanitise
from fedrobust.types import Shard
from fedrobust.utils.images import as_unit


def sanitise_shard(
    sanitiser: Sanitiser, model: Any, shard: Shard, server_round: int
) -> tuple[Shard, Tensor]:
    """The shard without the training images that the `classifier.Classifier` finds suspicious, and
    which of them were kept (N,).

    The very same shard during the warm-up, while the model knows nothing. Validation and test
    images are left alone.
    """
    if not sanitiser.active(server_round) or not len(shard.train):
        return shard, torch.ones(len(shard.train), dtype=torch.bool)
    features_Nd = embed(model, shard.train.images)
    kept_N = sanitise(sanitiser, features_Nd, shard.train.labels, model.anchors).kept_N
    rows = kept_N.nonzero().reshape(-1).to(shard.train.labels.device)
    return replace(shard, train=shard.train.take(rows)), kept_N


@torch.no_grad()
def embed(model: Any, images: Tensor, batch_size: int = 128) -> Tensor:
    """The model's features (N, d) float32 on the CPU, eval mode (restored afterwards), for images
    (N, 3, H, W), uint8 or unit floats."""
    device, modes = (
        next(model.parameters()).device,
        {module: module.training for module in model.modules()},
    )
    model.eval()
    try:
        return torch.cat(
            [
                model.features(as_unit(part.to(device))).float().cpu()
                for part in torch.split(images, batch_size)
            ]
        )
    finally:
        for module, mode in modes.items():
            module.training = mode
