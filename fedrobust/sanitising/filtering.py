"""The defence at work in a hospital: the global model that it received embeds its training images, and suspicious ones stay out of the
round. Nothing leaves the hospital but how many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedrobust.images import as_unit
from fedrobust.sanitising.common import Sanitiser, sift
from fedrobust.types import Contamination, Shard, keep_update


def filtered(sanitiser: Sanitiser, model: Any, shard: Shard, server_round: int) -> tuple[Shard, Tensor]:
    """The shard without the training images that the `models.Classifier` finds suspicious, and which of them were kept (N,).

    The very same shard during the warm-up, while the model knows nothing. Validation and test images are left alone.
    """
    if not sanitiser.active(server_round) or not len(shard.train):
        return shard, torch.ones(len(shard.train), dtype=torch.bool)
    features_Nd = embed(model, shard.train.images)
    kept_N = sift(sanitiser, features_Nd, shard.train.labels, model.anchors).kept_N
    rows = kept_N.nonzero().reshape(-1).to(shard.train.labels.device)
    return replace(shard, train=shard.train.take(rows)), kept_N


@torch.no_grad()
def embed(model: Any, images: Tensor, batch_size: int = 128) -> Tensor:
    """The model's features (N, d) float32 on the CPU, eval mode (restored afterwards), for images (N, 3, H, W), uint8 or unit floats."""
    device, modes = next(model.parameters()).device, {module: module.training for module in model.modules()}
    model.eval()
    try:
        return torch.cat([model.features(as_unit(part.to(device))).float().cpu() for part in torch.split(images, batch_size)])
    finally:
        for module, mode in modes.items():
            module.training = mode


def attacker_owned(contamination: Contamination) -> bool:
    """Whether the attacker holds the client and not only its data: whoever tampers with the training or with what is sent does not
    sanitise itself."""
    tampers = contamination.update is not keep_update or contamination.track is not None
    return tampers or contamination.disguise is not None or contamination.collude is not None
