"""Ditto: beside the global model each hospital trains one of its own, which is held near it."""

from __future__ import annotations

from dataclasses import replace

from fedrobust.clients.prox import proximity, trainable
from fedrobust.clients.sgd import train_local

from fedrobust.learning.personal import read_named, state_names, write_named
from fedrobust.learning.settings import TrainingSettings
from fedrobust.types import ClientTrainer, PersonalTrainer, Task, TrainResult
from fedrobust.utils.validation import (
    NonNegative,
    check_settings,
    flatten_groups,
)

OWN = "own"  # in the memory: the learning-rate schedule of the client's own model


@flatten_groups
@check_settings("client")
def ditto(proximal: NonNegative = 0.1, *, training: TrainingSettings) -> ClientTrainer:
    """Plain local training of the global model, and then of the client's own model v on the same
    images with lambda/2 |v - w|^2, w the received global model.

    What the client sends is that of client=sgd to the last bit. Its own model begins as the first
    global model that it receives, has BatchNorm statistics of its own, and never leaves it. The
    paper trains both for as many steps as it likes; here both follow the same settings.

    Args:
        proximal: lambda, weight of the proximal term; 0: the own model is trained alone.
        training: loss, optimizer and length of either training.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Li et al., ICML 2021 (arXiv 2012.04221), "Ditto". The proximal term agrees with that of the
        library FL4Health 0.4.2 to 1e-6 on random layers.
    """

    def trainer(task: Task) -> TrainResult:
        model = task.model
        names = state_names(model)
        received = read_named(model, names)
        near = [one.detach().clone() for one in trainable(model)]
        result = train_local(task, training)
        sent = read_named(model, names)
        write_named(model, task.personal or received)
        own = train_local(
            replace(task, memory=task.memory.get(OWN, {})),
            training,
            lambda images, scores, labels: proximity(trainable(model), near, proximal),
        )
        personal = read_named(model, names)
        write_named(model, sent)
        memory = {**result.memory, **({OWN: own.memory} if own.memory else {})}
        return replace(result, memory=memory, personal=personal)

    return PersonalTrainer(trainer)
