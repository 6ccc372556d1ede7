"""Any optimizer of torch.optim by its name, with its settings checked before anything is
trained."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fedrobust.errors import ConfigError

# These need a closure or sparse gradients, which the training loop does not give.
UNFIT = {"Optimizer", "LBFGS", "SparseAdam"}
NAMES = sorted(
    name
    for name, found in vars(torch.optim).items()
    if isinstance(found, type) and issubclass(found, Optimizer) and name not in UNFIT
)


def check_optimizer(key: str, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError unless `settings` (name and keyword arguments) make an optimizer."""
    if not isinstance(settings, Mapping) or "name" not in settings:
        raise ConfigError(
            f"{key}={settings}: must be a mapping with a name, such as {{name: Adam, lr: 0.0001}}"
        )
    if settings["name"] not in NAMES:
        near = difflib.get_close_matches(str(settings["name"]), NAMES, n=3)
        raise ConfigError(
            f"{key}.name={settings['name']}: no such optimizer in torch.optim; try "
            f"{', '.join(near) or 'Adam'}"
        )
    try:
        # a bias, a matrix and a convolution: some optimizers (Muon) take matrices only
        make_optimizer(
            settings, [nn.Parameter(torch.zeros([2] * dimensions)) for dimensions in (1, 2, 4)]
        )
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{key}={dict(settings)}: torch.optim.{settings['name']} refuses its "
            f"settings ({reason})"
        ) from error


def make_optimizer(settings: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer over those parameters."""
    keywords = {name: value for name, value in settings.items() if name != "name"}
    made: Optimizer = getattr(torch.optim, settings["name"])(parameters, **keywords)
    return made
