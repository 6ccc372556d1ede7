"""Several contaminations as one: all of them, a different one for every client, or one drawn for
every sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from fedrobust.contamination.apply import chain
from fedrobust.contamination.base import Contamination, DataContamination, keep_update
from fedrobust.errors import ConfigError
from fedrobust.utils.validation import choice, number

MODES = ("all", "cyclic", "sample")


def mixture(
    *,
    mode: str = "cyclic",
    contaminations: Sequence[Contamination] = (),
    probabilities: Sequence[float] | None = None,
) -> Contamination:
    """Join the listed contaminations (settings with a `_target_` each).

    mode "all": one after the other on everything. "cyclic": client by client, in the order of ids
    among those of its kind, one each and then from the first again, so that every site has its own
    damage; where there are no clients (corrupted test images) the samples take turns. "sample":
    each sample draws one by `probabilities` (null: equal ones; where they sum to less than 1, the
    rest stays clean); for contaminations of data only. At most one may have a backdoor.
    """
    choice("contamination.mode", mode, MODES)
    parts = _checked(contaminations)
    if probabilities is not None and mode != "sample":
        raise ConfigError(
            f"contamination.probabilities={probabilities}: only for "
            "contamination.mode=sample; set it to null"
        )
    if mode == "all":
        return _joined(parts)
    for one in parts:
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


def _checked(contaminations: Any) -> tuple[Contamination, ...]:
    if (
        not isinstance(contaminations, Sequence)
        or not all(isinstance(one, Contamination) for one in contaminations)
        or not contaminations
    ):
        raise ConfigError(
            f"contamination.contaminations={contaminations}: must be a list of "
            "contaminations, each with its _target_"
        )
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


def _shares(probabilities: Any, count: int) -> Tensor:
    """(count + 1,) float64 probabilities; the last one is that of a clean sample."""
    if probabilities is None:
        probabilities = [1 / count] * count
    if (
        isinstance(probabilities, str)
        or not isinstance(probabilities, Sequence)
        or len(probabilities) != count
    ):
        raise ConfigError(
            f"contamination.probabilities={probabilities}: must be {count} numbers, "
            "one for each contamination, or null"
        )
    shares = [number("contamination.probabilities", one, low=0, high=1) for one in probabilities]
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
    """Every sample under the contamination whose number it has; samples with a higher number stay
    as they are."""
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
