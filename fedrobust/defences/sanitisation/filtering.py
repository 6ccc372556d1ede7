"""The defence at work in a hospital: the global model that it received embeds its training images,
and suspicious ones stay out of the round. Nothing leaves the hospital but how many."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedrobust.defences.sanitisation.base import Sanitiser, sanitise
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.inference import embed
from fedrobust.types import Shard


def sanitise_shard(
    sanitiser: Sanitiser, model: Classifier, shard: Shard, server_round: int
) -> tuple[Shard, Tensor]:
    """The shard without the training images that the classifier finds suspicious, and
    which of them were kept (N,).

    The same shard during the warm-up, while the model is uninformative. Validation and test
    images are left alone.
    """
    if not sanitiser.active(server_round) or not len(shard.train):
        return shard, torch.ones(len(shard.train), dtype=torch.bool)
    features_Nd = embed(model, shard.train.images)
    kept_N = sanitise(sanitiser, features_Nd, shard.train.labels, model.anchors).kept_N
    rows = kept_N.nonzero().reshape(-1).to(shard.train.labels.device)
    return replace(shard, train=shard.train.take(rows)), kept_N
