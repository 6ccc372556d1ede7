"""What several contaminations share: exact shares of samples, and checks of class numbers."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedrobust.checks import number
from fedrobust.errors import ConfigError


def chosen(eligible: Tensor, rate: float, generator: Generator) -> Tensor:
    """round(rate * E) of the E eligible row numbers, drawn without replacement, in rising order (halves round to even)."""
    count = round(rate * len(eligible))
    return eligible[torch.randperm(len(eligible), generator=generator)[:count]].sort().values


def classes(name: str, num_classes: int | None) -> int:
    """The number of classes, which label contaminations are told when they are built.

    Raises ConfigError when it is unknown or below 2, since no label can be wrong then.
    """
    if num_classes is None:
        raise ConfigError(f"contamination={name}: the number of classes is unknown; pass num_classes, it comes from the data set")
    return int(number("num_classes", num_classes, low=2, integer=True))


def label(key: str, value: int | None, num_classes: int) -> int:
    """A class number in [0, num_classes)."""
    if value is None:
        raise ConfigError(f"contamination.{key}=null: must be a class number from 0 to {num_classes - 1}")
    return int(number(f"contamination.{key}", value, low=0, high=num_classes - 1, integer=True))
