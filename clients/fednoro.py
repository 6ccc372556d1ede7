"""FedNoRo at the hospital: it tells how large its loss of each class is and, where the server then
holds its labels for noisy, learns from the global model."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

import torch
from fedrobust.clients.sgd import task_loss, train_down, train_local
from torch import Tensor

from fedrobust.learning.losses import Loss, class_counts, mutual_kl
from fedrobust.learning.noisy_labels import class_losses, image_losses
from fedrobust.learning.settings import TrainingSettings
from fedrobust.learning.training import ExtraLoss
from fedrobust.types import ClientTrainer, Task, TrainResult
from fedrobust.utils.validation import (
    Positive,
    Share,
    check_settings,
    check_told,
    flatten_groups,
)

CLASS_LOSSES = "class_losses"  # of the reply: (K,), -1 for a class without images
NOISY, WEIGHT = "noisy", "weight"  # of the server's message, once it has told hospitals apart


@flatten_groups
@check_settings("client")
def fednoro(temperature: Positive = 0.8, *, training: TrainingSettings) -> ClientTrainer:
    """Plain training; at hospitals with noisy labels lambda of it is learning from the global
    model.

    Warm-up: before it trains, a hospital reports the mean loss (cross-entropy) of the received
    model on its images of each class. Afterwards the server says who is noisy. A noisy hospital
    trains with (1 - lambda) loss + lambda KL(softmax(scores of the received model / temperature) ||
    softmax(own scores + log class counts)); lambda grows as the rule says (`strategy.weight`,
    `strategy.ramp`). The others train as in the warm-up.

    The paper's loss is cross-entropy with logit adjustment, client.loss=balanced_softmax here; any
    other may be chosen. The losses that a hospital reports in the last round of the warm-up are
    those of the model that it receives in it, a round older than in the authors' code.

    Args:
        temperature: T of the received model's scores, times their scale; below 1 it makes them
            surer.
        training: loss, optimizer and length of the training.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Wu et al., IJCAI 2023, "FedNoRo"; temperature .8 from the authors' code, whose loss this is
        to the last bit on 60 random scores of 5 classes (a class without images, of which that code
        takes the logarithm of 0, counts as one with one image).

    Needs:
        strategy=fednoro;
        privacy=none or clipping
    """

    def trainer(task: Task) -> TrainResult:
        told = check_told(task.extras, {NOISY: Literal[0, 1], WEIGHT: Share})
        if not told:
            losses_N = image_losses(task.model, task.data.train)
            found_K = class_losses(losses_N, task.data.train.labels, task.model.num_classes)
            return replace(train_local(task, training), extras={CLASS_LOSSES: found_K})
        weight = float(told[WEIGHT]) if told[NOISY] else 0.0
        if weight == 0:
            return train_local(task, training)
        loss = scale_loss(task_loss(task, training), 1 - weight)
        return train_down(task, training, loss, received_peer_loss(task, weight, temperature))

    return trainer


def scale_loss(loss: Loss, factor: float) -> Loss:
    """`factor` times the loss."""
    return lambda scores, labels: factor * loss(scores, labels)


def received_peer_loss(task: Task, weight: float, temperature: float) -> ExtraLoss:
    """`weight` times KL(softened received model || own model with the client's class counts)."""
    peer = copy.deepcopy(task.model).eval().requires_grad_(False)
    counts_K = class_counts(task.data.train.labels, peer.num_classes)
    prior_K = counts_K.clamp(min=1).log() / peer.scale

    def loss(images: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            taught = torch.softmax(peer.scale / temperature * peer(images).float(), dim=1)
        return weight * mutual_kl(scores + prior_K.to(scores), taught, peer.scale, 1.0)

    return loss
