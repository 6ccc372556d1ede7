"""Plain local training: the client's model starts at the global one and follows its own data
(McMahan et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedrobust.errors import ConfigError
from fedrobust.learning.inference import predict
from fedrobust.learning.losses import Loss, RobustLoss, class_counts, make_loss
from fedrobust.learning.noisy_labels import estimate_confusion
from fedrobust.learning.settings import TrainingSettings
from fedrobust.learning.training import ExtraLoss, FitResult, fit
from fedrobust.types import ClientTrainer, Task, TrainResult
from fedrobust.utils.confusion import ESTIMATE, confusion_matrix
from fedrobust.utils.validation import flatten_groups

CONFUSION = "confusion"  # in a client's memory: its estimate, K rows of K numbers


@flatten_groups
def sgd(*, training: TrainingSettings) -> ClientTrainer:
    """Plain local training.

    Args:
        training: loss, optimizer and length of the training.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        McMahan et al., AISTATS 2017, algorithm 1.
    """
    return lambda task: train_local(task, training)


def train_local(
    task: Task, settings: TrainingSettings, extra_loss: ExtraLoss | None = None
) -> TrainResult:
    """Train task.model in place; see `training_report`."""
    return train_down(task, settings, task_loss(task, settings), extra_loss)


def train_down(
    task: Task, settings: TrainingSettings, loss: Loss, extra_loss: ExtraLoss | None = None
) -> TrainResult:
    """The same with another loss than that of the settings."""
    fitted = fit(
        task.model,
        task.data,
        loss,
        settings,
        task.generator,
        extra_loss=extra_loss,
        memory=task.memory,
    )
    return training_report(task, fitted, settings)


def training_report(task: Task, fitted: FitResult, settings: TrainingSettings) -> TrainResult:
    """The client's report on its training. The sums are means over all images seen (several epochs
    count each) times the number of the client's training images, so that sums over clients divided
    by images are means. With early stopping also: epochs, until it ended."""
    count = len(task.data.train)
    sums = {name: total / fitted.seen * count for name, total in fitted.sums.items()}
    if settings.early_stopping is not None:
        sums["epochs"] = float(fitted.seen)
    memory = {**fitted.memory, **_remember_confusion(task, settings)}
    return TrainResult(count, sums, memory=memory)


def _remember_confusion(task: Task, settings: TrainingSettings) -> Mapping[str, Any]:
    """The client's memory of how its labels are confused, where its loss asks for an estimate: of
    the model that it has trained in the last of the first rounds, or in the first round in which it
    is asked if that is later, which knows its own labels."""
    if not _estimates_confusion(settings):
        return {}
    if task.round > settings.robust_loss.warmup and CONFUSION in task.memory:
        return known_confusion(task)
    found_KK = estimate_confusion(predict(task.model, task.data.train.images))
    return {CONFUSION: found_KK.tolist()}


def known_confusion(task: Task) -> Mapping[str, Any]:
    """Of the client's memory the part that forward correction needs; empty before an estimate."""
    return {name: value for name, value in task.memory.items() if name == CONFUSION}


def _estimates_confusion(settings: TrainingSettings) -> bool:
    return settings.loss == "forward_correction" and settings.robust_loss.confusion == ESTIMATE


def _robust_settings(task: Task, settings: TrainingSettings) -> RobustLoss:
    """The settings of the robust losses, the confusion filled in where it is known by now. Raises
    ConfigError for one of another number of classes."""
    robust = settings.robust_loss
    if settings.loss != "forward_correction":
        return robust
    if not _estimates_confusion(settings):
        key, count = "client.robust_loss.confusion", task.model.num_classes
        confusion_matrix(key, robust.confusion, count)
        return robust
    known = task.round > robust.warmup and CONFUSION in task.memory
    return replace(robust, confusion=task.memory[CONFUSION]) if known else robust


def task_loss(task: Task, settings: TrainingSettings) -> Loss:
    """The loss that the settings name, for this client's model and class counts. Raises ConfigError
    where they do not go together."""
    if settings.loss == "dot_regression" and task.model.head != "etf":
        raise ConfigError(
            "client.loss=dot_regression: needs model.head=etf; use "
            "client.loss=cross_entropy or balanced_softmax"
        )
    return make_loss(
        settings.loss,
        scale=task.model.scale,
        counts_K=class_counts(task.data.train.labels, task.model.num_classes),
        rect=settings.rect,
        rect_scope=settings.rect_scope,
        rect_cap=settings.rect_cap,
        robust=_robust_settings(task, settings),
    )
