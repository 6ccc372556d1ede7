"""Client-side mutual learning: the received global model stays beside the local one as a frozen
peer that it also learns from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import torch
from fedrobust.clients.sgd import train_local
from torch import Tensor

from fedrobust.learning.inference import predict
from fedrobust.learning.losses import DISTILLATION_LOSSES, make_score_distillation
from fedrobust.learning.settings import TrainingSettings
from fedrobust.learning.training import ExtraLoss
from fedrobust.types import ClientTrainer, Samples, Task, TrainResult
from fedrobust.utils.validation import (
    Count,
    NonNegative,
    OneOf,
    Positive,
    check_settings,
    flatten_groups,
)


@flatten_groups
@check_settings("client")
def global_distillation(
    weight: NonNegative = 1.0,
    warmup: Count = 5,
    temperature: Positive = 2.0,
    max_drop: NonNegative = 5.0,
    distillation_loss: Annotated[str, OneOf(DISTILLATION_LOSSES)] = "kl",
    *,
    training: TrainingSettings,
) -> ClientTrainer:
    """Plain local training plus lambda * KL(global || local) over softened inner products
    (distillation_loss=kl), or plus lambda times half the squared gap of the inner products with the
    true anchor (distillation_loss=true_class).

    lambda grows from 0 in round 1 to `weight` after `warmup` further rounds. A poisoned global
    model would be amplified by the models that learn from it, so lambda is 0 in a round where the
    global model's accuracy on the client's validation images lies more than `max_drop` points under
    that of the client's last round.

    Args:
        weight: lambda after the warm-up.
        warmup: rounds after the first until lambda has reached its full weight.
        temperature: of the softened inner products.
        max_drop: percentage points of validation accuracy that the global model may lose.
        distillation_loss: what is learned from the global model, as above.
        training: loss, optimizer and length of the training.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Zhang et al., CVPR 2018 (mutual learning); Shen et al. 2020 (in federations).
    """

    def trainer(task: Task) -> TrainResult:
        now = accuracy(task.model, task.data.validation)
        share = (
            0.0
            if accuracy_dropped(task.memory, now, max_drop)
            else weight * warmup_factor(task.round, warmup)
        )
        peer = (
            global_peer_loss(task.model, distillation_loss, share, temperature)
            if share > 0
            else None
        )
        result = train_local(task, training, peer)
        return replace(
            result,
            extras={"mutual_weight": share},
            memory={**result.memory, "global_accuracy": now},
        )

    return trainer


def warmup_factor(round: int, warmup: int) -> float:
    """The share in [0, 1] of the weight in server round 1, 2, ...: 0, 1/warmup, 2/warmup, ...,
    1."""
    return 1.0 if warmup == 0 else min(1.0, (round - 1) / warmup)


def accuracy_dropped(memory: Mapping[str, Any], now: float | None, max_drop: float) -> bool:
    """Whether the accuracy fell by more than `max_drop` points since the client's last round (never
    where one is unknown)."""
    before = memory.get("global_accuracy")
    return before is not None and now is not None and before - now > max_drop


def accuracy(model: Any, samples: Samples) -> float | None:
    """Percent of the samples that the model gets right; None without samples."""
    if not len(samples):
        return None
    right = predict(model, samples.images).argmax(1) == samples.labels.cpu()
    return 100 * float(right.double().mean())


def global_peer_loss(
    model: Any, distillation_loss: str, weight: float, temperature: float
) -> ExtraLoss:
    """The term that pulls `model` towards a frozen copy of what it is now."""
    peer = copy.deepcopy(model).eval().requires_grad_(False)
    towards = make_score_distillation(distillation_loss, peer.scale, temperature)

    def loss(images: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            taught = peer(images)
        return weight * towards(scores, taught, labels)

    return loss
