"""FedBN: each hospital keeps its BatchNorm layers; the others are trained together."""

from __future__ import annotations

from fedrobust.clients.fedper import train_keeping
from fedrobust.clients.sgd import train_local

from fedrobust.errors import ConfigError
from fedrobust.learning.personal import batchnorm_names
from fedrobust.learning.settings import TrainingSettings
from fedrobust.types import ClientTrainer, PersonalTrainer, Task, TrainResult
from fedrobust.utils.validation import flatten_groups


@flatten_groups
def fedbn(*, training: TrainingSettings) -> ClientTrainer:
    """Plain local training with BatchNorm layers that each client keeps: their weights, biases and
    statistics.

    They begin as the first global model's and are sent as they were received.
    `server.batchnorm=local` keeps the statistics alone (SiloBN). The global model has the weights
    and biases of the untrained model; its statistics follow server.batchnorm.

    Args:
        training: loss, optimizer and length of the training.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range; in training: no BatchNorm layer trains.

    Reference:
        Li et al., ICLR 2021 (arXiv 2102.07623), "FedBN". Of a network with three BatchNorm layers
        the tensors that are shared are those of the library FL4Health 0.4.2.

    Needs:
        BatchNorm layers that train
    """

    def trainer(task: Task) -> TrainResult:
        names = batchnorm_names(task.model)
        if not names:
            raise ConfigError(
                "client=fedbn: the model has no BatchNorm layer that trains; choose a model with "
                "some, or set model.hidden=[128] model.hidden_batchnorm=true"
            )
        return train_keeping(task, names, lambda: train_local(task, training))

    return PersonalTrainer(trainer)
