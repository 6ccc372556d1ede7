"""FedCorr at the hospital: it tells the dimension of its predictions and, where the server then
holds its labels for noisy, replaces those of large loss by what the global model is sure of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from fedrobust.clients.prox import nearness
from fedrobust.clients.sgd import train_local
from torch import Tensor

from fedrobust.learning.inference import predict
from fedrobust.learning.noisy_labels import image_losses, local_dimensions
from fedrobust.learning.settings import TrainingSettings
from fedrobust.types import ClientTrainer, LabelChoice, Samples, Task, TrainResult
from fedrobust.utils.two_groups import higher_group
from fedrobust.utils.validation import (
    NonNegative,
    PositiveCount,
    Share,
    check_settings,
    check_told,
    flatten_groups,
)

LABELS, LOSSES, CORRECTED = "labels", "losses", "corrected"  # in a client's memory
# what the server sends: which labels are to be replaced
LARGE_LOSSES, ALL = 1, 2
# what it says, if anything: before the first round it does not
MESSAGE_KINDS = {"stage": Literal[1, 2, 3], "relabel": Literal[0, 1, 2]}


@dataclass(frozen=True, slots=True)
class Relabelled:
    """The labels (N,) to train with, and the share of them that seems to be wrong."""

    labels_N: Tensor
    level: float = 0.0


@flatten_groups
@check_settings("client")
def fedcorr(
    beta: NonNegative = 5.0,
    confidence: Share = 0.5,
    relabel_ratio: Share = 0.5,
    neighbours: PositiveCount = 20,
    *,
    training: TrainingSettings,
) -> ClientTrainer:
    """Training in three stages, in which a noisy hospital corrects its labels by the global model.

    1. Preprocessing: a hospital trains with beta mu |w - w_global|^2 added to the loss, mu its
       share of wrong labels as estimated, and reports mu and the mean local intrinsic dimension of
       its own model's predictions. One that the server calls noisy then splits its images in two
       by their loss under its own model (a mixture of two normal distributions); mu is the share of
       those with the larger losses, and of the images with the int(mu N relabel_ratio) largest
       losses those of which the global model is surer than `confidence` get its class as label.
    2. Finetuning: plain training; the server uses the updates of hospitals with a small mu alone.
    3. At the beginning of the rest of the rounds a noisy hospital gives every image of which the
       global model is surer than `confidence` its class as label, once; then plain training.

    What is different here: hospitals of an iteration train at the same time on one global model,
    not one after the other; losses are those of the probabilities (the authors' code takes a
    softmax twice); the distance in the proximal term is squared (in that code it is not); mixup, an
    option of it, is left out. A hospital that is not asked in a
    round in which it should relabel by losses does not do so later.

    Args:
        beta: weight of the proximal term, times mu.
        confidence: probability above which the global model's class is believed.
        relabel_ratio: share of the images that seem mislabelled that are looked at for relabelling.
        neighbours: k of the local intrinsic dimension.
        training: loss, optimizer and length of the training.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Xu et al., CVPR 2022, "FedCorr" (arXiv 2204.04677); the order of steps and the defaults from
        the authors' code.

    Needs:
        strategy=fedcorr;
        privacy=none or clipping;
        sanitiser=none
    """

    def trainer(task: Task) -> TrainResult:
        first_stage = check_told(task.extras, MESSAGE_KINDS).get("stage", 1) == 1
        given_N = task.data.train.labels
        found = relabel(task, confidence, relabel_ratio)
        labels_N = found.labels_N.to(given_N.device)
        own = Samples(task.data.train.images, labels_N)
        work = replace(task, data=replace(task.data, train=own))
        term = nearness(task.model, 2 * beta * found.level) if first_stage and found.level else None
        result = train_local(work, training, term)
        return replace(
            result,
            extras=_report(work, found.level, neighbours if first_stage else None),
            memory={**result.memory, **_remember(work, first_stage)},
            labels=LabelChoice(labels_N != given_N, labels_N),
        )

    return trainer


def _report(task: Task, level: float, neighbours: int | None) -> Mapping[str, float]:
    """What the server is told after the training. neighbours: None: no dimension."""
    if neighbours is None:
        return {"level": level}
    predicted_NK = predict(task.model, task.data.train.images)
    return {"level": level, "lid": float(local_dimensions(predicted_NK, neighbours).mean())}


def _remember(task: Task, first_stage: bool) -> Mapping[str, Any]:
    """What the hospital needs the next time: its labels, in the first stage losses under its own
    model, and whether it has relabelled all its images."""
    kept: dict[str, Any] = {LABELS: task.data.train.labels.cpu()}
    if first_stage:
        kept[LOSSES] = image_losses(task.model, task.data.train)
    if CORRECTED in task.memory or task.extras.get("relabel") == ALL:
        kept[CORRECTED] = True
    return kept


def relabel(task: Task, confidence: float, ratio: float) -> Relabelled:
    """The labels with which a hospital trains in this round, by its memory, the server's message
    and the received model."""
    labels_N = task.memory.get(LABELS)
    if labels_N is None or len(labels_N) != len(task.data.train):
        labels_N = task.data.train.labels.cpu()
    word = task.extras.get("relabel", 0)
    if word == ALL and CORRECTED not in task.memory:
        every_N = torch.ones(len(labels_N), dtype=torch.bool)
        return Relabelled(_believe(task, labels_N, every_N, confidence))
    losses_N = task.memory.get(LOSSES)
    if word != LARGE_LOSSES or losses_N is None or len(losses_N) != len(labels_N):
        return Relabelled(labels_N)
    level = float(higher_group(losses_N[:, None]).double().mean())
    large_N = largest(losses_N, int(level * ratio * len(losses_N) + 1e-9))
    return Relabelled(_believe(task, labels_N, large_N, confidence), level)


def largest(values_N: Tensor, count: int) -> Tensor:
    """(N,) bool: the `count` largest values, of equal ones the first."""
    chosen_N = torch.zeros(len(values_N), dtype=torch.bool)
    chosen_N[values_N.argsort(descending=True, stable=True)[:count]] = True
    return chosen_N


def _believe(task: Task, labels_N: Tensor, doubted_N: Tensor, confidence: float) -> Tensor:
    """The labels, of doubted images the received model's class where it is sure."""
    if not len(labels_N):
        return labels_N
    sure_N, class_N = predict(task.model, task.data.train.images).max(dim=1)
    return torch.where(doubted_N & (sure_N > confidence), class_N, labels_N)
