"""The settings of local training, shared by every client trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fedrobust.errors import ConfigError
from fedrobust.learning import losses, optimizers
from fedrobust.utils.validation import OneOf, Positive, PositiveCount, Words, check_settings

OPTIMIZER = Words("a mapping with a name, such as {name: Adam, lr: 0.0001}")


@check_settings("client")
@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the training on one shard (keys of `configs/client/`); wrong values raise
    ConfigError at once.

    Attributes:
        loss: of the scores; rect, rect_scope and rect_cap belong to dot_regression and, as weights
            of images, to those of robust_loss.
        rect: weigh classes against imbalance.
        rect_scope: whether classes are counted in the batch or among all images of the client.
        rect_cap: upper bound of the weight r^2; null: none.
        robust_loss: of the losses that bear wrong labels.
        epochs: passes over the images, unless steps is given.
        steps: optimizer steps; null: as many as the epochs have.
        batch_size: images in one step.
        optimizer: name of a class in torch.optim, and its keywords.
        max_grad_norm: upper bound of the gradient's norm; null: none.
        augment: random flips, turns and small shifts.
        early_stopping: end after so many epochs without a better validation loss, with the state of
            the best epoch; null: never.
        lr_plateau: keywords of torch's ReduceLROnPlateau on the validation loss; null: no schedule.
        amp: bfloat16 autocast, on CUDA only.
    """

    loss: Annotated[str, OneOf(losses.NAMES)] = "dot_regression"
    rect: bool = True
    rect_scope: Annotated[str, OneOf(losses.SCOPES)] = "batch"
    rect_cap: Positive | None = 10.0
    robust_loss: losses.RobustLoss = field(default_factory=losses.RobustLoss)
    epochs: PositiveCount = 1
    steps: PositiveCount | None = None
    batch_size: Annotated[int, Field(ge=2)] = 32
    optimizer: Annotated[Mapping[str, Any], OPTIMIZER] = field(
        default_factory=lambda: {"name": "Adam", "lr": 1e-4, "weight_decay": 1e-3}
    )
    max_grad_norm: Positive | None = None
    augment: bool = True
    early_stopping: PositiveCount | None = None
    lr_plateau: Mapping[str, Any] | None = None
    amp: bool = True

    def __post_init__(self) -> None:
        optimizers.check_optimizer("client.optimizer", self.optimizer)
        if self.lr_plateau is not None:
            _check_plateau(self.lr_plateau)


def _check_plateau(plateau: Mapping[str, Any]) -> None:
    try:
        ReduceLROnPlateau(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), **plateau)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"client.lr_plateau={plateau}: ReduceLROnPlateau refuses it ({error}); try "
            f"{{factor: 0.1, patience: 10}}"
        ) from error
