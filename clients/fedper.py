"""FedPer: each hospital keeps its last layer; the others are trained together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fedrobust.clients.sgd import train_local

from fedrobust.learning.personal import head_names, read_named, write_named
from fedrobust.learning.settings import TrainingSettings
from fedrobust.types import ClientTrainer, PersonalTrainer, Task, TrainResult
from fedrobust.utils.validation import flatten_groups


@flatten_groups
def fedper(*, training: TrainingSettings) -> ClientTrainer:
    """Plain local training with a last layer that each client keeps.

    The last layer begins as the first global model's, goes on where it was in the client's last
    round, and is sent as it was received. With an ETF head it is the projection below the anchors.
    The paper keeps one or more residual blocks, too; here it is the last layer alone.

    Args:
        training: loss, optimizer and length of the training.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Arivazhagan et al. 2019, "Federated learning with personalization layers" (arXiv
        1912.00818).

    Needs:
        layers below the last one that train
    """

    def trainer(task: Task) -> TrainResult:
        return train_keeping(task, head_names(task.model), lambda: train_local(task, training))

    return PersonalTrainer(trainer)


def train_keeping(
    task: Task, names: Sequence[str], train: Callable[[], TrainResult]
) -> TrainResult:
    """Train task.model with the client's own values of some tensors, and leave the received ones in
    it.

    Args:
        task: of the round.
        names: of the tensors that the client keeps.
        train: trains task.model in place.

    Returns:
        The report, with the trained values of these tensors as `personal`.
    """
    received = read_named(task.model, names)
    write_named(task.model, {name: task.personal.get(name, received[name]) for name in names})
    result = train()
    personal = read_named(task.model, names)
    write_named(task.model, received)
    return replace(result, personal=personal)
