"""Helpers of several contaminations: types of settings, exact shares of samples, classes by number
or name, graded corruptions, planted triggers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Protocol, TypeVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from fedrobust.contamination.base import Contamination, DataContamination, Trigger
from fedrobust.errors import ConfigError
from fedrobust.utils.names import clean_name
from fedrobust.utils.validation import Given, Share, Words, check, check_settings

# that are corrupted at once: bounds the memory of intermediate maps, and keeps them in the cache
PIXELS = 2**19
Level = TypeVar("Level")
GRADED_SECTIONS = """Args:
    severity: from weak to strong.
    rate: exact share of the images; the others keep every bit.

Returns:
    A contamination of images.

Raises:
    ConfigError: a setting is out of its range."""

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
    if isinstance(value, str) and class_names and clean_name(value) in class_names:
        return list(class_names).index(clean_name(value))
    if value is None or isinstance(value, str):
        raise ConfigError(
            f"contamination.{key}={'null' if value is None else value}: must be {wanted}"
        )
    return check(f"contamination.{key}", value, Annotated[int, Field(ge=0, le=num_classes - 1)])


class GradedFactory(Protocol):
    """The factory of a corruption graded by severity."""

    __name__: str

    def __call__(self, *, severity: int = 3, rate: float = 1.0) -> Contamination: ...


def corruption_factory(
    levels: Sequence[Level],
) -> Callable[[Callable[[Tensor, Level, Generator], Tensor]], GradedFactory]:
    """Decorator that makes the factory of a graded corruption, under the same name and with the
    same description, from a function of images.

    Args:
        levels: of the severities 1 to 5.

    Returns:
        The decorator. Its function takes images (n, 3, H, W) float32 in [0, 1], a level and a
        generator, and gives new images, which are clipped to [0, 1].
    """

    def decorate(corrupt: Callable[[Tensor, Level, Generator], Tensor]) -> GradedFactory:
        name = corrupt.__name__

        def factory(*, severity: Severity = 3, rate: Share = 1.0) -> Contamination:
            return Contamination(name, data=_corrupt_share(corrupt, levels[severity - 1], rate))

        factory.__name__ = factory.__qualname__ = name
        factory.__module__ = corrupt.__module__
        factory.__doc__ = f"{inspect.getdoc(corrupt)}\n\n{GRADED_SECTIONS}"
        return check_settings("contamination")(factory)

    return decorate


def _corrupt_share(
    corrupt: Callable[[Tensor, Level, Generator], Tensor], level: Level, rate: float
) -> DataContamination:
    """rate: exact share of the images that are corrupted; the others keep every bit."""

    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        rows = sample_rows(torch.arange(len(labels)), rate, generator)
        if len(rows) == 0:
            return images, labels
        out = torch.empty_like(images) if len(rows) == len(labels) else images.clone()
        for some in torch.split(rows, max(1, PIXELS // images[0, 0].numel())):
            out[some] = corrupt(images[some], level, generator).clamp(0, 1)
        return out, labels

    return data


def plant_trigger(trigger: Trigger, wanted: int, rate: float) -> DataContamination:
    """The trigger on an exact share `rate` of all images, which are labelled `wanted`."""

    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        rows = sample_rows(torch.arange(len(labels)), rate, generator)
        if len(rows) == 0:
            return images, labels
        return images.index_copy(0, rows, trigger(images[rows])), labels.index_fill(0, rows, wanted)

    return data
