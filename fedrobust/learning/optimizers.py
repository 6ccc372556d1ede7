"""Any optimizer of torch.optim by its name, with its settings checked before anything is
trained."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fedrobust.errors import ConfigError
from fedrobust.utils.names import did_you_mean

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
    _check_keywords(key, settings)
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


def _check_keywords(key: str, settings: Mapping[str, Any]) -> None:
    """Names and kinds of the keywords, by the defaults in torch's signature."""
    known = inspect.signature(getattr(torch.optim, settings["name"])).parameters
    names = [name for name in known if name not in ("self", "params")]
    for name, value in settings.items():
        if name == "name":
            continue
        if name not in names:
            raise ConfigError(
                f"{key}.{name}={value}: torch.optim.{settings['name']} has no such keyword; "
                f"{did_you_mean(name, names)}known are {', '.join(sorted(names))}"
            )
        wanted = _wanted(known[name].default)
        if wanted and not _fits(value, known[name].default):
            raise ConfigError(f"{key}.{name}={value}: must be {wanted}")


def _wanted(default: object) -> str:
    """The kind of a keyword with this default in words; empty where the default does not say it."""
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, (int, float)):
        return "a number"
    if isinstance(default, tuple) and all(_fits(one, 0.0) for one in default):
        return f"a list of {len(default)} numbers"
    return ""


def _fits(value: object, default: object) -> bool:
    """Whether the value is of the kind of the default."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, tuple):
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        return len(value) == len(default) and all(_fits(one, 0.0) for one in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def make_optimizer(
    settings: Mapping[str, Any], parameters: Iterable[nn.Parameter], *, fused: bool = False
) -> Optimizer:
    """The optimizer over those parameters. fused: in one pass over each of them where torch has
    that, unless the settings say how: faster, with other last bits."""
    keywords = {name: value for name, value in settings.items() if name != "name"}
    kind = getattr(torch.optim, settings["name"])
    ways = {"fused", "foreach", "differentiable"}
    if fused and "fused" in inspect.signature(kind).parameters and not ways & keywords.keys():
        keywords["fused"] = True
    made: Optimizer = kind(parameters, **keywords)
    return made
