"""Deep mutual learning: several models that begin differently are trained together and learn from
each other; the first is the client's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from fedrobust.clients.sgd import task_loss, training_report
from pydantic import Field
from torch import Tensor

from fedrobust.errors import ConfigError
from fedrobust.learning.classifier import ModelFactory
from fedrobust.learning.losses import DISTILLATION_LOSSES, make_score_distillation
from fedrobust.learning.peers import make_peers
from fedrobust.learning.settings import TrainingSettings
from fedrobust.learning.training import PeerLoss, fit_together
from fedrobust.types import ClientTrainer, Task, TrainResult
from fedrobust.utils.validation import (
    Given,
    NonNegative,
    OneOf,
    Positive,
    check_settings,
    flatten_groups,
)


@flatten_groups
@check_settings("client")
def mutual_learning(
    size: Annotated[int, Field(ge=2)] = 2,
    weight: NonNegative = 1.0,
    temperature: Positive = 2.0,
    distillation_loss: Annotated[str, OneOf(DISTILLATION_LOSSES)] = "kl",
    model: Annotated[ModelFactory | None, Given()] = None,
    *,
    training: TrainingSettings,
) -> ClientTrainer:
    """Train task.model and `size` - 1 further models, each with weight times the mean over its
    peers of what it learns from them.

    All members answer a batch before any of them is changed, and share the anchors. Early stopping
    and plateau look at each member's own loss without the mutual term. The peers begin from new
    weights at every call (in a federation: in every round) and are thrown away.

    Args:
        size: models that learn from each other, the client's own among them.
        weight: of the mutual term.
        temperature: T of the softened inner products.
        distillation_loss: kl: T^2 KL(peer || own) over softened inner products with all anchors;
            true_class: half the squared gap of the inner products with the true anchor alone, the
            literal reading of "distillation between inner-products and ground-truth vectors".
        model: how the peers are built; filled in by the experiment.
        training: loss, optimizer and length of the training.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Zhang et al., CVPR 2018, with the T^2 of distillation.
    """
    if model is not None and not hasattr(model, "build"):
        raise ConfigError(
            f"client.model={model}: is that of the experiment; leave it out and set model=..."
        )

    def trainer(task: Task) -> TrainResult:
        if model is None:
            raise ValueError("client=mutual_learning was built without the experiment's model")
        members = [task.model, *make_peers(task, model, size - 1)]
        term = peer_loss(task.model.scale, distillation_loss, weight, temperature)
        fitted = fit_together(
            members,
            task.data,
            task_loss(task, training),
            training,
            task.generator,
            peer_loss=term,
            memory=task.memory,
        )
        return training_report(task, fitted[0], training)

    return trainer


def peer_loss(scale: float, distillation_loss: str, weight: float, temperature: float) -> PeerLoss:
    """Loss that pulls a member's scores towards those of its peers: weight times the mean over the
    peers."""
    one = make_score_distillation(distillation_loss, scale, temperature)

    def loss(scores: Tensor, others: Sequence[Tensor], labels: Tensor) -> Tensor:
        return weight * torch.stack([one(scores, taught, labels) for taught in others]).mean()

    return loss
