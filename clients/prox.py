"""FedProx: local training that is held near the received global model."""

from __future__ import annotations

import torch
from fedrobust.clients.sgd import train_local
from torch import Tensor, nn

from fedrobust.learning.settings import TrainingSettings
from fedrobust.learning.training import ExtraLoss
from fedrobust.types import ClientTrainer, Task, TrainResult
from fedrobust.utils.validation import NonNegative, check_settings, flatten_groups


@flatten_groups
@check_settings("client")
def prox(mu: NonNegative = 0.01, *, training: TrainingSettings) -> ClientTrainer:
    """Plain local training plus mu/2 |w - w_global|^2 over all trainable parameters.

    Args:
        mu: weight of the proximal term.
        training: loss, optimizer and length of the training.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Li et al., MLSys 2020 (arXiv 1812.06127), eq. 2.
    """

    def trainer(task: Task) -> TrainResult:
        return train_local(task, training, nearness(task.model, mu))

    return trainer


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def nearness(model: nn.Module, mu: float) -> ExtraLoss:
    """mu/2 times the squared distance of the model to what it is now."""
    received = [parameter.detach().clone() for parameter in trainable(model)]
    return lambda images, scores, labels: proximity(trainable(model), received, mu)


def proximity(parameters: list[nn.Parameter], reference: list[Tensor], mu: float) -> Tensor:
    """mu/2 times the squared Euclidean distance; its gradient is mu (w - w_ref)."""
    squares = [
        (parameter - kept).square().sum()
        for parameter, kept in zip(parameters, reference, strict=True)
    ]
    return mu / 2 * torch.stack(squares).sum()
