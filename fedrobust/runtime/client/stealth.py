"""Stealthy attacker: trains on clean, then on poisoned data, and sends the largest blend that its
own checks accept."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from fedrobust.contamination.base import AttackerProbe, Stealth
from fedrobust.learning import batchnorm
from fedrobust.learning.augmentation import first_view
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.inference import predict_scores
from fedrobust.state import Layout, State, load, take
from fedrobust.types import ClientTrainer, Samples, Shard, Task, TrainResult
from fedrobust.utils.images import as_unit


def train_stealthily(
    disguise: Stealth,
    trainer: ClientTrainer,
    task: Task,
    clean: Shard,
    *,
    layout: Layout,
    generator: Generator,
) -> tuple[State, TrainResult]:
    """Train on the clean images as an honest client would, then further on those and the
    contaminated ones (`task.data`) together, and blend the two models. The report is that of the
    honest training."""
    result = trainer(replace(task, data=clean))
    honest = take(task.model, layout)
    load(task.model, layout, honest)
    both = stealth_training_set(clean.train, task.data.train)
    trainer(replace(task, data=replace(task.data, train=both), generator=generator))
    return disguise(
        honest, take(task.model, layout), make_probe(task.model, layout, clean), generator
    ), result


def stealth_training_set(clean: Samples, contaminated: Samples) -> Samples:
    """The contaminated images, and of the clean ones all that do not contradict them:
    those with the same label, or with another look."""
    before, after = as_unit(clean.images), as_unit(contaminated.images)
    agrees = (clean.labels == contaminated.labels) | (before != after).flatten(1).any(dim=1)
    return concatenate(
        Samples(before, clean.labels).take(agrees), Samples(after, contaminated.labels)
    )


def concatenate(one: Samples, other: Samples) -> Samples:
    """All samples of both; of features of several views the first, unless both have as many."""
    images = [one.images, other.images]
    if images[0].shape[1:] != images[1].shape[1:]:
        images = [first_view(part) for part in images]
    return Samples(torch.cat(images), torch.cat([one.labels, other.labels]))


def make_probe(model: Classifier, layout: Layout, clean: Shard) -> AttackerProbe:
    """The checks of a client with these clean images; each loads a state into the model."""

    def scores(state: State, images: Tensor) -> Tensor:
        load(model, layout, state)
        batchnorm.recalibrate(model, images)
        return predict_scores(model, images)

    return AttackerProbe(
        concatenate(clean.train, clean.validation), scores, model.head, model.scale
    )
