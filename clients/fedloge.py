"""FedLoGe: features are trained towards a fixed sparse ETF; a global and a local classifier learn
on top of them, and each hospital joins the two."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import torch
from fedrobust.clients.fedgela import check_loss
from fedrobust.clients.sgd import train_down
from pydantic import Field
from torch import Tensor, nn

from fedrobust.errors import ConfigError
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.losses import cross_entropy
from fedrobust.learning.settings import TrainingSettings
from fedrobust.learning.sparse_etf import sparse_etf
from fedrobust.types import ClientTrainer, PersonalTrainer, Task, TrainResult
from fedrobust.utils.validation import Positive, check_settings, flatten_groups

WEIGHT, BIAS = "last.weight", "last.bias"


@flatten_groups
@check_settings("client")
def fedloge(
    sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.6,
    length: Positive = 0.1,
    *,
    training: TrainingSettings,
) -> ClientTrainer:
    """Local training of the features by cross-entropy with a fixed sparse ETF (SSE-C), and of two
    classifiers on these features: the model's last layer, which is shared, and one that the client
    keeps.

    Neither classifier moves the features. The client's own model is the final global one with the
    class vectors phi_c + |phi_c| psi_c, phi its own classifier and psi the shared one: the local
    feature realignment (LA-FR). Realign the shared one with strategy=fedloge (GA-FR). The authors'
    code also hides classes that a client's test images do not have; that would use test labels and
    is left out.

    Args:
        sparsity: share of zeros in the fixed classifier.
        length: of its class vectors, as in the authors' code; features have any length.
        training: loss (cross_entropy alone), optimizer and length of the training.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range, or another loss is asked for; in training: the
            model has an ETF head, or fewer features than classes - 1.

    Reference:
        Xiao et al., ICLR 2024 (arXiv 2401.08977): SSE-C and LA-FR; the scores of the client's own
        model agree with the authors' code (`update_weights_norm_init`, `localtest`) to 1e-6 on
        random classifiers of 5 classes.

    Needs:
        model.head=linear; layers below the last one that train
    """
    check_loss("fedloge", training, "cross_entropy")

    def trainer(task: Task) -> TrainResult:
        if task.model.anchors is not None:
            raise ConfigError(
                "client=fedloge: needs model.head=linear, not etf; set model.head=linear"
            )
        heads = ThreeHeads(task.model, sparsity, length, task.personal)

        def both(images: Tensor, scores_BK: Tensor, labels_B: Tensor) -> Tensor:
            return heads.shared_and_own_loss(labels_B)

        result = train_down(replace(task, model=heads), training, cross_entropy, both)
        own = {WEIGHT: heads.own.weight.detach(), BIAS: heads.own.bias.detach()}
        return replace(result, personal=own)

    def adapt(task: Task) -> Mapping[str, Tensor]:
        """The realigned sum of both classifiers; the shared one where the client has none."""
        if not task.personal:
            return {}
        last = task.model.last
        own = {name: value.to(last.weight) for name, value in task.personal.items()}
        return {
            WEIGHT: realign(last.weight.detach(), own[WEIGHT]),
            BIAS: last.bias.detach() + own[BIAS],
        }

    return PersonalTrainer(trainer, adapt)


def realign(shared_Kd: Tensor, own_Kd: Tensor) -> Tensor:
    """phi_c + |phi_c| psi_c of each class."""
    lengths_K1: Tensor = own_Kd.norm(dim=1, keepdim=True)
    return own_Kd + lengths_K1 * shared_Kd


class ThreeHeads(nn.Module):
    """The features of a model with a linear head under three classifiers: a fixed sparse ETF, the
    model's last layer, and the client's own. personal: of that one; empty: it begins as the last
    layer."""

    fixed: Tensor

    def __init__(
        self, model: Classifier, sparsity: float, length: float, personal: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        dimension, num_classes = model.last.in_features, model.num_classes
        if dimension < num_classes - 1:
            raise ConfigError(
                f"client=fedloge: {num_classes} classes need at least {num_classes - 1} features "
                f"below the last layer, not {dimension}; set model.hidden=[128]"
            )
        self.model = model
        self.own = copy.deepcopy(model.last)
        with torch.no_grad():
            self.own.weight.copy_(personal.get(WEIGHT, model.last.weight))
            self.own.bias.copy_(personal.get(BIAS, model.last.bias))
        fixed = length * sparse_etf(dimension, num_classes, sparsity)
        self.register_buffer("fixed", fixed.to(model.last.weight), persistent=False)
        self._seen = torch.zeros(0)

    @property
    def num_classes(self) -> int:
        return self.model.num_classes

    def forward(self, inputs: Tensor) -> Tensor:
        """Images, or features of such, -> scores (B, K) of the fixed classifier."""
        features = self.model.features(inputs)
        self._seen = features.detach()
        return features @ self.fixed

    def shared_and_own_loss(self, labels_B: Tensor) -> Tensor:
        """The sum of both classifiers' cross-entropies on the last batch; the features are
        constants."""
        return cross_entropy(self.model.last(self._seen), labels_B) + cross_entropy(
            self.own(self._seen), labels_B
        )
