"""FedETF: training towards a fixed ETF with a balanced loss and a learnt temperature, then
fine-tuning of the model and of the anchors at each hospital."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from fedrobust.clients.fedgela import check_anchors, check_loss
from fedrobust.clients.sgd import train_down
from torch import Tensor, nn

from fedrobust.learning.classifier import Classifier
from fedrobust.learning.losses import Loss, balanced_softmax, class_counts, cross_entropy
from fedrobust.learning.personal import LAST, read_named, state_names, training_only
from fedrobust.learning.settings import TrainingSettings
from fedrobust.learning.training import fit
from fedrobust.types import ClientTrainer, PersonalTrainer, Task, TrainResult
from fedrobust.utils.validation import (
    Count,
    NonNegative,
    Positive,
    PositiveCount,
    check_settings,
    flatten_groups,
)

BETA = "beta"  # in the memory: the client's learnt temperature
MOMENTUM = 0.9  # of the fine-tuning, as in the authors' code


@flatten_groups
@check_settings("client")
def fedetf(
    gamma: NonNegative = 1.0,
    turns: Count = 20,
    turn_epochs: PositiveCount = 3,
    anchor_lr: Positive = 0.1,
    projection_lr: Positive = 0.05,
    *,
    training: TrainingSettings,
) -> ClientTrainer:
    """Local training towards the fixed ETF by softmax(beta <u, m_c> + gamma log n_c), n_c images of
    a class, with a beta that is learnt; the final global model is fine-tuned at each client.

    Fine-tuning: one more local training, then `turns` times the anchors alone and the projection
    alone, by plain cross-entropy. The anchors that a client tunes are its own; the others keep the
    ETF. In the paper beta travels with the model; here it begins as model.scale, stays with the
    client and changes no prediction of the global model. Two things are the authors' code's, for
    the paper leaves them open: 20 turns of 3 epochs each, and SGD with these learning rates.

    Args:
        gamma: exponent of the class counts in the balanced loss; 0: plain cross-entropy.
        turns: of the fine-tuning of anchors and projection; 0: none.
        turn_epochs: passes over the images for the anchors, and as many for the projection.
        anchor_lr: learning rate of SGD for the anchors.
        projection_lr: that for the projection, with momentum 0.9.
        training: loss (balanced_softmax alone), optimizer and length of the training.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range, or another loss is asked for; in training: the
            model has no ETF head.

    Reference:
        Li et al., ICCV 2023 (arXiv 2303.10058): projection layer, balanced feature loss with
        learnable temperature, local fine-tuning. With gamma 1 the loss agrees with the authors'
        code to the last bit on 60 scores of 5 classes.

    Needs:
        model.head=etf
    """
    check_loss("fedetf", training, "balanced_softmax")

    def trainer(task: Task) -> TrainResult:
        model = task.model
        check_anchors("fedetf", model.anchors)
        with _temperature(model, task.memory.get(BETA, model.scale)) as beta:
            result = train_down(task, training, balanced_loss(task, beta, gamma))
            learnt = float(beta.detach())
        return replace(result, memory={**result.memory, BETA: learnt})

    def adapt(task: Task) -> Mapping[str, Tensor]:
        result = trainer(task)
        scale = result.memory[BETA]
        own = OwnAnchors(task.model)
        cross = _cross_entropy(scale)
        anchors = _turn(training, turn_epochs, {"name": "SGD", "lr": anchor_lr})
        sgd = {"name": "SGD", "lr": projection_lr, "momentum": MOMENTUM}
        projection = _turn(training, turn_epochs, sgd)
        last = [f"model.{name}" for name in state_names(task.model) if name.startswith(LAST)]
        for _ in range(turns):
            with training_only(own, ["anchors"]):
                fit(own, task.data, cross, anchors, task.generator)
            with training_only(own, last):
                fit(own, task.data, cross, projection, task.generator)
        # so that the model's softmax, which knows its own scale, has the temperature beta
        tuned = own.anchors.detach() * (scale / task.model.scale)
        return {**read_named(task.model, state_names(task.model)), "anchors": tuned}

    return PersonalTrainer(trainer, adapt)


class OwnAnchors(nn.Module):
    """A classifier with anchors that train: (d, K), at first its ETF. They keep no length."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        assert model.anchors is not None, "an ETF head"
        self.model = model
        self.anchors = nn.Parameter(model.anchors.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Images, or features of such, -> scores (B, K)."""
        return self.model.features(inputs) @ self.anchors


def balanced_loss(task: Task, beta: Tensor, gamma: float) -> Loss:
    """-log n_y^gamma exp(beta s_y) / sum_c n_c^gamma exp(beta s_c), with the class counts n of the
    client; a class without images counts as one with one image."""
    counts_K = class_counts(task.data.train.labels, task.model.num_classes).clamp(min=1)
    weights_K = counts_K.pow(gamma)
    return lambda scores_BK, labels_B: balanced_softmax(beta * scores_BK, labels_B, weights_K)


def _cross_entropy(scale: float) -> Loss:
    return lambda scores_BK, labels_B: cross_entropy(scores_BK, labels_B, scale)


def _turn(
    training: TrainingSettings, epochs: int, optimizer: Mapping[str, object]
) -> TrainingSettings:
    """Settings of one part of a turn: no schedule and no early end."""
    return replace(
        training,
        loss="cross_entropy",
        epochs=epochs,
        steps=None,
        optimizer=optimizer,
        early_stopping=None,
        lr_plateau=None,
    )


@contextmanager
def _temperature(model: nn.Module, value: float) -> Iterator[nn.Parameter]:
    """A parameter that trains with the model and is no part of it afterwards."""
    device = next(model.parameters()).device
    beta = nn.Parameter(torch.tensor(float(value), device=device))
    model.register_parameter(BETA, beta)
    try:
        yield beta
    finally:
        delattr(model, BETA)
