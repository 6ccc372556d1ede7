"""FedRep: each hospital keeps its last layer, which it trains before the layers that are shared."""

from __future__ import annotations

from dataclasses import replace

from fedrobust.clients.fedper import train_keeping
from fedrobust.clients.sgd import known_confusion, train_local

from fedrobust.learning.personal import head_names, state_names, training_only
from fedrobust.learning.settings import TrainingSettings
from fedrobust.types import ClientTrainer, PersonalTrainer, Task, TrainResult
from fedrobust.utils.validation import PositiveCount, check_settings, flatten_groups


@flatten_groups
@check_settings("client")
def fedrep(head_epochs: PositiveCount = 10, *, training: TrainingSettings) -> ClientTrainer:
    """Local training of the last layer, which each client keeps, with the other layers fixed, and
    then of the other layers with the last one fixed.

    BatchNorm statistics follow the batches in both parts. The report is that of the second part.

    Args:
        head_epochs: passes over the images in which the last layer trains.
        training: loss, optimizer and length of the training of the other layers; of the last one
            all but the length.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Collins et al., ICML 2021 (arXiv 2102.07078), algorithm 1; 10 epochs of the head and 1 of
        the representation as in the authors' script for CIFAR-10.

    Needs:
        layers below the last one that train
    """
    first = replace(training, epochs=head_epochs, steps=None)

    def trainer(task: Task) -> TrainResult:
        model = task.model
        head = head_names(model)
        body = set(state_names(model)) - set(head)

        def train() -> TrainResult:
            with training_only(model, head):
                train_local(replace(task, memory=known_confusion(task)), first)
            with training_only(model, body):
                return train_local(task, training)

        return train_keeping(task, head, train)

    return PersonalTrainer(trainer)
