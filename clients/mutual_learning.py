"""Deep mutual learning: several models that begin differently are trained together and learn from
each other; the first is the client's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fedrobust.clients.sgd import task_loss, training_report
from torch import Tensor

from fedrobust.errors import ConfigError
from fedrobust.learning.classifier import Classifier, ModelFactory
from fedrobust.learning.losses import DISTILLATION_LOSSES, make_score_distillation
from fedrobust.learning.settings import TrainingSettings, with_settings
from fedrobust.learning.training import PeerLoss, fit_together
from fedrobust.seeding import generator as named_generator
from fedrobust.types import ClientTrainer, Task, TrainResult
from fedrobust.utils.validation import choice, number


@with_settings
def mutual_learning(
    size: int = 2,
    weight: float = 1.0,
    temperature: float = 2.0,
    distillation_loss: str = "kl",
    model: ModelFactory | None = None,
    **settings: Any,
) -> ClientTrainer:
    """Train task.model and `size` - 1 further models, each with weight times the mean over its
    peers of what it learns from them.

    distillation_loss: "kl", T^2 KL(peer || own) over softened inner products with all anchors
    (Zhang et al. 2018, with the T^2 of distillation); "true_class", half the squared gap of the
    inner products with the true anchor alone, the literal reading of "distillation between
    inner-products and ground-truth vectors". All members answer a batch before any of them is
    changed, and share the anchors. Early stopping and plateau look at each member's own loss
    without the mutual term. The peers begin from new weights at every call (in a federation: in
    every round) and are thrown away. model: how they are built, which the experiment knows.
    """
    number("client.size", size, low=2, integer=True)
    number("client.weight", weight, low=0)
    number("client.temperature", temperature, low=0, open_low=True)
    choice("client.distillation_loss", distillation_loss, DISTILLATION_LOSSES)
    if model is not None and not hasattr(model, "build"):
        raise ConfigError(
            f"client.model={model}: is that of the experiment; leave it out and set model=..."
        )
    checked = TrainingSettings(**settings)

    def trainer(task: Task) -> TrainResult:
        if model is None:
            raise ValueError("client=mutual_learning was built without the experiment's model")
        members = [task.model, *make_peers(task, model, size - 1)]
        term = peer_loss(task.model.scale, distillation_loss, weight, temperature)
        fitted = fit_together(
            members,
            task.data,
            task_loss(task, checked),
            checked,
            task.generator,
            peer_loss=term,
            memory=task.memory,
        )
        return training_report(fitted[0], len(task.data.train), checked)

    return trainer


def make_peers(task: Task, factory: ModelFactory, count: int) -> list[Classifier]:
    """New models beside task.model, on its device, with its anchors and other first weights."""
    received, device = task.model, next(task.model.parameters()).device
    anchors = None if received.anchors is None else received.anchors.cpu()
    seeds = torch.randint(2**62, (count,), generator=task.generator).tolist()
    built = [
        factory.build(received.num_classes, anchors, named_generator(seed, "peer"))
        for seed in seeds
    ]
    return [one.to(device) for one in built]


def peer_loss(scale: float, distillation_loss: str, weight: float, temperature: float) -> PeerLoss:
    """What pulls a member's scores towards those of its peers: weight times the mean over the
    peers."""
    one = make_score_distillation(distillation_loss, scale, temperature)

    def loss(scores: Tensor, others: Sequence[Tensor], labels: Tensor) -> Tensor:
        return weight * torch.stack([one(scores, taught, labels) for taught in others]).mean()

    return loss
