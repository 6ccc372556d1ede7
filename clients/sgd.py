"""Plain local training: the client's model starts at the global one and follows its own data
(McMahan et al. 2017)."""

from __future__ import annotations

from fedrobust.errors import ConfigError
from fedrobust.learning.losses import Loss, class_counts, make_loss
from fedrobust.learning.settings import TrainingSettings
from fedrobust.learning.training import ExtraLoss, FitResult, fit
from fedrobust.types import ClientTrainer, Task, TrainResult
from fedrobust.utils.validation import flatten_groups


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
    loss = task_loss(task, settings)
    fitted = fit(
        task.model,
        task.data,
        loss,
        settings,
        task.generator,
        extra_loss=extra_loss,
        memory=task.memory,
    )
    return training_report(fitted, len(task.data.train), settings)


def training_report(fitted: FitResult, count: int, settings: TrainingSettings) -> TrainResult:
    """The client's report on its training. The sums are means over all images seen (several epochs
    count each) times the client's `count` training images, so that sums over clients divided by
    images are means. With early stopping also: epochs, until it ended."""
    sums = {name: total / fitted.seen * count for name, total in fitted.sums.items()}
    if settings.early_stopping is not None:
        sums["epochs"] = float(fitted.seen)
    return TrainResult(count, sums, memory=fitted.memory)


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
    )
