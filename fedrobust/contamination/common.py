"""Helpers of several contaminations: types of settings, exact shares of samples, classes by number
or name, graded corruptions, planted triggers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from fedrobust.contamination.base import Contamination, DataContamination, Trigger
from fedrobust.errors import ConfigError
from fedrobust.utils.validation import Given, Share, Words, check

# that are corrupted at once: bounds the memory of intermediate maps, and keeps them in the cache
PIXELS = 2**19
Level = TypeVar("Level")

Severity = Annotated[int, Field(ge=1, le=5)]
ClassLabel = Annotated[int | str, Words("a class, by number or name")]
Colour = Annotated[
    Sequence[Share],
    Field(min_length=3, max_length=3),
    Words("three numbers in [0, 1], e.g. [1.0, 1.0, 1.0]"),
]
# what the data set says, filled in when a contamination is built
NumClasses = Annotated[int | None, Given()]
ClassNames = Annotated[Sequence[str] | None, Given()]


def sample_rows(eligible: Tensor, rate: float, generator: Generator) -> Tensor:
    """round(rate * E) of the E eligible row numbers, drawn without replacement, in rising order
    (halves round to even)."""
    count = round(rate * len(eligible))
    return eligible[torch.randperm(len(eligible), generator=generator)[:count]].sort().values


def classes(name: str, num_classes: int | None) -> int:
    """The number of classes, which label contaminations get when they are built.

    Raises ConfigError when it is unknown or below 2, since no label can be wrong then.
    """
    if num_classes is None:
        raise ConfigError(
            f"contamination={name}: the number of classes is unknown; pass "
            "num_classes, it comes from the data set"
        )
    return check("num_classes", num_classes, Annotated[int, Field(ge=2)])


def class_index(
    key: str, value: int | str | None, num_classes: int, class_names: Sequence[str] | None = None
) -> int:
    """A class, given by its number in [0, num_classes) or by its name, as a number."""
    wanted = f"a class number from 0 to {num_classes - 1}" + (
        f" or one of {', '.join(class_names)}" if class_names else ""
    )
    if isinstance(value, str) and class_names and value in class_names:
        return list(class_names).index(value)
    if value is None or isinstance(value, str):
        raise ConfigError(
            f"contamination.{key}={'null' if value is None else value}: must be {wanted}"
        )
    return check(f"contamination.{key}", value, Annotated[int, Field(ge=0, le=num_classes - 1)])


def corruption(
    name: str,
    levels: Sequence[Level],
    apply: Callable[[Tensor, Level, Generator], Tensor],
    severity: int,
    rate: float,
) -> Contamination:
    """A corruption of images graded by severity.

    apply: (images (n, 3, H, W) float32 in [0, 1], level, generator) -> new images; its result is
    clipped to [0, 1]. severity: 1 to 5 picks the level. rate: exact share, in [0, 1], of the images
    that are corrupted; the others keep every bit.
    """
    level = levels[severity - 1]

    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        rows = sample_rows(torch.arange(len(labels)), rate, generator)
        if len(rows) == 0:
            return images, labels
        out = torch.empty_like(images) if len(rows) == len(labels) else images.clone()
        for some in torch.split(rows, max(1, PIXELS // images[0, 0].numel())):
            out[some] = apply(images[some], level, generator).clamp(0, 1)
        return out, labels

    return Contamination(name, data=data)


def plant_trigger(trigger: Trigger, wanted: int, rate: float) -> DataContamination:
    """The trigger on an exact share `rate` of all images, which are labelled `wanted`."""

    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        rows = sample_rows(torch.arange(len(labels)), rate, generator)
        if len(rows) == 0:
            return images, labels
        return images.index_copy(0, rows, trigger(images[rows])), labels.index_fill(0, rows, wanted)

    return data
