"""FedGELA: the global classifier is an ETF; each hospital's own one has lengths that follow its
classes."""

from __future__ import annotations

from dataclasses import replace

import torch
from fedrobust.clients.sgd import train_down
from torch import Tensor

from fedrobust.errors import ConfigError
from fedrobust.learning.losses import class_counts, cross_entropy
from fedrobust.learning.personal import read_named, state_names
from fedrobust.learning.settings import TrainingSettings
from fedrobust.types import ClientTrainer, PersonalTrainer, Task, TrainResult
from fedrobust.utils.validation import flatten_groups


@flatten_groups
def fedgela(*, training: TrainingSettings) -> ClientTrainer:
    """Local training by cross-entropy with the ETF's anchors at lengths that are the shares of the
    client's classes, K n_c / n for a class with n_c of its n images.

    A class that the client does not have gets length 0, so that its images are not pushed away from
    an anchor that it knows nothing of; with equal shares all lengths are 1. The client's own model
    is that of its last training with these anchors; the global model has the plain ETF. The paper's
    E_W, E_H and temperature are here model.scale, since features and anchors have unit length.

    Args:
        training: loss (cross_entropy alone), optimizer and length of the training.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range, or another loss is asked for; in training: the
            model has no ETF head.

    Reference:
        Fan et al., NeurIPS 2023 (arXiv 2312.17581): local classifiers by the local class
        distribution; the lengths agree with the authors' code (`produce_Ew`) to 1e-6 on 60 labels
        of 5 classes.

    Needs:
        model.head=etf
    """
    check_loss("fedgela", training, "cross_entropy")

    def trainer(task: Task) -> TrainResult:
        model = task.model
        check_anchors("fedgela", model.anchors)
        lengths_K = class_lengths(task.data.train.labels, model.num_classes).to(model.anchors)

        def loss(scores_BK: Tensor, labels_B: Tensor) -> Tensor:
            return cross_entropy(scores_BK * lengths_K, labels_B, model.scale)

        result = train_down(task, training, loss)
        own = read_named(model, state_names(model))
        return replace(result, personal={**own, "anchors": model.anchors * lengths_K})

    return PersonalTrainer(trainer)


def class_lengths(labels_N: Tensor, num_classes: int) -> Tensor:
    """Phi: (K,) K n_c / n; all 1 without images."""
    counts_K = class_counts(labels_N.cpu(), num_classes)
    if not len(labels_N):
        return torch.ones(num_classes)
    return num_classes * counts_K / len(labels_N)


def check_loss(name: str, training: TrainingSettings, wanted: str) -> None:
    """Raises ConfigError where the settings name another loss than the trainer has."""
    if training.loss != wanted:
        raise ConfigError(
            f"client.loss={training.loss}: client={name} has a loss of its own; set "
            f"client.loss={wanted}"
        )


def check_anchors(name: str, anchors: Tensor | None) -> None:
    """Raises ConfigError without an ETF."""
    if anchors is None:
        raise ConfigError(f"client={name}: needs model.head=etf, not linear; set model.head=etf")
