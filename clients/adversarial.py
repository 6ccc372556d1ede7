"""Adversarial training: the client also learns from images that are attacked against the model as
it is in that very step."""

from __future__ import annotations

from typing import Any

from fedrobust.clients.sgd import task_loss, train_local
from torch import Tensor

from fedrobust.contamination.base import Attack
from fedrobust.contamination.evasion import pgd
from fedrobust.learning.losses import Loss
from fedrobust.learning.settings import TrainingSettings, with_settings
from fedrobust.learning.training import ExtraLoss
from fedrobust.types import ClientTrainer, Task, TrainResult
from fedrobust.utils.validation import number


@with_settings
def adversarial(
    eps_255: float = 4.0,
    attack_steps: int = 3,
    attack_step_size: float = 0.5,
    weight: float = 1.0,
    **settings: Any,
) -> ClientTrainer:
    """Plain local training plus `weight` times the same loss on the batch after PGD against the
    present model.

    Goodfellow et al. 2015, section 6, add both losses; Madry et al. 2018 take the attacked images
    alone, by PGD. eps_255: largest change of a value in 255ths of the range; attack_steps,
    attack_step_size (a share of eps): of PGD. A training step costs so many gradients more, and one
    step on the attacked images, which BatchNorm's statistics see too.
    """
    number("client.eps_255", eps_255, low=0, high=255)
    pgd.check_steps("client.attack_", attack_steps, attack_step_size)
    number("client.weight", weight, low=0, open_low=True)
    checked, attack = TrainingSettings(**settings), pgd.project(attack_steps, attack_step_size)

    def trainer(task: Task) -> TrainResult:
        loss = task_loss(task, checked)
        return train_local(
            task, checked, attacked_loss(task, loss, attack, eps=eps_255 / 255, weight=weight)
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
