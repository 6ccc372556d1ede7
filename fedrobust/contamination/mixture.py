"""Several contaminations as one: all of them, a different one for every client, or one drawn for
every sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from fedrobust.contamination.apply import chain
from fedrobust.contamination.base import Contamination, DataContamination, keep_update
from fedrobust.errors import ConfigError
from fedrobust.utils.counting import format_count
from fedrobust.utils.validation import Built, Share, Words, check_settings


@check_settings("contamination")
def mixture(
    *,
    mode: Literal["all", "cyclic", "sample"] = "cyclic",
    contaminations: Annotated[
        Sequence[Annotated[Contamination, Built("a contamination")]],
        Field(min_length=1),
        Words("a list of contaminations, each with its _target_"),
    ],
    probabilities: Sequence[Share] | None = None,
) -> Contamination:
    """Several contaminations as one. At most one may have a backdoor.

    Args:
        mode: all: one after the other on everything; cyclic: client by client, in the order of ids
            among those of its kind, one each and then from the first again, so that every site has
            its own damage (where there are no clients, as in corrupted test images, the samples
            take turns); sample: each sample draws one, for contaminations of data only.
        contaminations: any settings of this group, each with its _target_.
        probabilities: with mode=sample: one for each contamination; where they sum to less than 1,
            the rest stays clean. null: equal ones.

    Returns:
        The joined contamination.

    Raises:
        ConfigError: a setting is out of its range, or the contaminations cannot be joined.
    """
    parts = _with_one_backdoor(contaminations)
    if probabilities is not None and mode != "sample":
        raise ConfigError(
            f"contamination.probabilities={probabilities}: only for "
            "contamination.mode=sample; set it to null"
        )
    if mode == "all":
        return _joined(parts)
    for one in parts:
        if one.learnt is not None:
            raise ConfigError(
                f"contamination.contaminations: {one.name} trains its trigger and cannot be "
                "joined; take it out"
            )
        if one.collude is not None:
            raise ConfigError(
                f"contamination.mode={mode}: {one.name} needs all poisoned clients "
                "together; use contamination.mode=all"
            )
    backdoor = next((one.backdoor for one in parts if one.backdoor is not None), None)
    if mode == "cyclic":
        return Contamination("mixture", data=_by_turns(parts), backdoor=backdoor, parts=parts)
    for one in parts:
        if (
            one.update is not keep_update
            or one.track is not None
            or one.stealth is not None
            or one.train is not None
            or one.craft is not None
            or one.parts
        ):
            raise ConfigError(
                f"contamination.mode=sample: {one.name} does not change single "
                "samples; use contamination.mode=cyclic or all"
            )
    return Contamination(
        "mixture", data=_drawn(parts, _shares(probabilities, len(parts))), backdoor=backdoor
    )


def _with_one_backdoor(contaminations: Sequence[Contamination]) -> tuple[Contamination, ...]:
    doors = [one.name for one in contaminations if one.backdoor is not None]
    if len(doors) > 1:
        raise ConfigError(
            "contamination.contaminations: only one may have a backdoor, not "
            f"{', '.join(doors)}; take the others out"
        )
    return tuple(contaminations)


def _joined(parts: Sequence[Contamination]) -> Contamination:
    try:
        return chain("mixture", *parts)
    except ValueError as error:
        raise ConfigError(f"contamination.contaminations: {error}; take the others out") from error


def _shares(probabilities: Sequence[float] | None, count: int) -> Tensor:
    """(count + 1,) float64 probabilities; the last one is that of a clean sample."""
    shares = [1 / count] * count if probabilities is None else list(probabilities)
    if len(shares) != count:
        raise ConfigError(
            f"contamination.probabilities={probabilities}: must be "
            f"{format_count(count, 'number')}, one for each contamination, or null"
        )
    if sum(shares) > 1 + 1e-9:
        raise ConfigError(f"contamination.probabilities={probabilities}: must sum to at most 1")
    return torch.tensor([*shares, max(0.0, 1 - sum(shares))], dtype=torch.float64)


def _by_turns(parts: Sequence[Contamination]) -> DataContamination:
    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        return _each(parts, torch.arange(len(labels)) % len(parts), images, labels, generator)

    return data


def _drawn(parts: Sequence[Contamination], shares: Tensor) -> DataContamination:
    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        if len(labels) == 0:
            return images, labels
        return _each(
            parts,
            torch.multinomial(shares, len(labels), replacement=True, generator=generator),
            images,
            labels,
            generator,
        )

    return data


def _each(
    parts: Sequence[Contamination],
    which_N: Tensor,
    images: Tensor,
    labels: Tensor,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Every sample under the contamination whose number it has; samples with a higher number are
    not changed."""
    new_images, new_labels = images, labels
    for place, one in enumerate(parts):
        rows = (which_N == place).nonzero().reshape(-1)
        given = images[rows], labels[rows]
        made = one.data(*given, generator)
        if made[0] is not given[0]:
            new_images = images.clone() if new_images is images else new_images
            new_images[rows] = made[0]
        if made[1] is not given[1]:
            new_labels = labels.clone() if new_labels is labels else new_labels
            new_labels[rows] = made[1]
    return new_images, new_labels
