"""Adversarial training: the client also learns from images that are attacked against the model as
it is in that very step."""

from __future__ import annotations

from typing import Annotated

from fedrobust.clients.sgd import task_loss, train_local
from pydantic import Field
from torch import Tensor

from fedrobust.contamination.base import Attack
from fedrobust.contamination.evasion import pgd
from fedrobust.contamination.evasion.pgd import StepSize
from fedrobust.learning.losses import Loss
from fedrobust.learning.settings import TrainingSettings
from fedrobust.learning.training import ExtraLoss
from fedrobust.types import ClientTrainer, Task, TrainResult
from fedrobust.utils.validation import Positive, PositiveCount, check_settings, flatten_groups


@flatten_groups
@check_settings("client")
def adversarial(
    eps_255: Annotated[float, Field(ge=0, le=255)] = 4.0,
    attack_steps: PositiveCount = 3,
    attack_step_size: StepSize = 0.5,
    weight: Positive = 1.0,
    *,
    training: TrainingSettings,
) -> ClientTrainer:
    """Plain local training plus `weight` times the same loss on the batch after PGD against the
    present model. A training step costs `attack_steps` gradients more, and one step on the attacked
    images, which BatchNorm's statistics see too.

    Args:
        eps_255: largest change of a value, in 255ths of the range.
        attack_steps: gradients of PGD per image.
        attack_step_size: of a step of PGD, as a share of eps.
        weight: of the loss on attacked images.
        training: loss, optimizer and length of the training.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Goodfellow et al., ICLR 2015, section 6, which adds both losses; Madry et al., ICLR 2018,
        by PGD and with the attacked images alone.

    Needs:
        model.feature_cache=false with model.freeze=backbone
    """
    attack = pgd.project(attack_steps, attack_step_size)

    def trainer(task: Task) -> TrainResult:
        loss = task_loss(task, training)
        return train_local(
            task, training, attacked_loss(task, loss, attack, eps=eps_255 / 255, weight=weight)
        )

    return trainer


def attacked_loss(
    task: Task, loss: Loss, attack: Attack, *, eps: float, weight: float
) -> ExtraLoss:
    """`weight` times the loss on attacked images; every call attacks the task's model as it then
    is."""

    def extra(images: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        attacked = attack(task.model, images, labels, eps, task.generator)
        return weight * loss(task.model(attacked), labels)

    return extra
