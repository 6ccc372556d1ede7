"""The settings of local training, shared by every client trainer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fedrobust.errors import ConfigError
from fedrobust.learning import losses, optimizers
from fedrobust.utils.validation import choice, flag, number

Factory = TypeVar("Factory", bound=Callable[..., Any])


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained on one shard (keys of `configs/client/`); wrong values raise
    ConfigError at once.

    loss: dot_regression | cross_entropy | balanced_softmax; rect, rect_scope (batch | client) and
    rect_cap (of the weight r^2; None: none) belong to dot_regression. epochs: passes over the
    images, unless steps (optimizer steps) is given. optimizer: the name of a class in torch.optim
    and its keywords. max_grad_norm: bound of the gradient's norm. augment: flips, turns, small
    shifts. early_stopping: end after so many epochs without a better validation loss; the best
    epoch's state is kept. lr_plateau: keywords of torch's ReduceLROnPlateau on the validation loss.
    amp: bfloat16 autocast, on CUDA only.
    """

    loss: str = "dot_regression"
    rect: bool = True
    rect_scope: str = "batch"
    rect_cap: float | None = 10.0
    epochs: int = 1
    steps: int | None = None
    batch_size: int = 32
    optimizer: Mapping[str, Any] = field(
        default_factory=lambda: {"name": "Adam", "lr": 1e-4, "weight_decay": 1e-3}
    )
    max_grad_norm: float | None = None
    augment: bool = True
    early_stopping: int | None = None
    lr_plateau: Mapping[str, Any] | None = None
    amp: bool = True

    def __post_init__(self) -> None:
        choice("client.loss", self.loss, losses.NAMES)
        choice("client.rect_scope", self.rect_scope, losses.SCOPES)
        for name in ("rect", "augment", "amp"):
            flag(f"client.{name}", getattr(self, name))
        number("client.epochs", self.epochs, low=1, integer=True)
        number("client.batch_size", self.batch_size, low=2, integer=True)
        for name in ("steps", "early_stopping"):
            if getattr(self, name) is not None:
                number(f"client.{name}", getattr(self, name), low=1, integer=True)
        for name in ("rect_cap", "max_grad_norm"):
            if getattr(self, name) is not None:
                number(f"client.{name}", getattr(self, name), low=0, open_low=True)
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


def with_settings(factory: Factory) -> Factory:
    """Show the fields of `TrainingSettings` in the signature of a factory that takes them as
    **settings: whoever reads the signature (the configuration's check of unknown keys, help()) sees
    them, and they are written once."""
    own = [p for p in inspect.signature(factory).parameters.values() if p.kind is not p.VAR_KEYWORD]
    shared = [
        p.replace(kind=p.KEYWORD_ONLY)
        for p in inspect.signature(TrainingSettings).parameters.values()
    ]
    setattr(factory, "__signature__", inspect.Signature([*own, *shared]))  # noqa: B010
    return factory
