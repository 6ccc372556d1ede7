"""Joining contaminations and applying them to a client's images and updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import Generator, Tensor

from fedrobust.contamination.base import Backdoor, Contamination, Craft, keep_data, keep_update
from fedrobust.state import State
from fedrobust.types import Samples
from fedrobust.utils.images import as_unit

Part = TypeVar("Part")


def chain(name: str, *contaminations: Contamination) -> Contamination:
    """Several contaminations, one after the other, as one; they share the generator. None at all:
    the identity.

    Raises ValueError when more than one has a backdoor, since only one attack success rate can be
    measured.
    """
    if any(one.parts for one in contaminations):
        ranks = range(math.lcm(*(parts_period(one) for one in contaminations)))
        parts = tuple(
            chain(name, *(for_rank(one, rank) for one in contaminations)) for rank in ranks
        )
        return replace(
            chain(name, *(replace(one, parts=()) for one in contaminations)), parts=parts
        )
    _check_learnt(name, contaminations)
    on_data = [one.data for one in contaminations if one.data is not keep_data]
    on_update = [one.update for one in contaminations if one.update is not keep_update]
    on_track = [one.track for one in contaminations if one.track is not None]
    on_craft = [one.craft for one in contaminations if one.craft is not None]
    backdoors = [one.backdoor for one in contaminations if one.backdoor is not None]
    if len(backdoors) > 1:
        raise ValueError(
            f"{name}: only one of the joined contaminations may have a backdoor, not "
            f"{len(backdoors)}"
        )

    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        for step in on_data:
            images, labels = step(images, labels, generator)
        return images, labels

    def update(trained: State, reference: State, generator: Generator) -> State:
        for step in on_update:
            trained = step(trained, reference, generator)
        return trained

    def track(sent: State, reference: State, previous: State | None) -> State:
        for step in on_track:
            sent = step(sent, reference, previous)
        return sent

    return Contamination(
        name,
        data=data if on_data else keep_data,
        update=update if on_update else keep_update,
        backdoor=backdoors[0] if backdoors else None,
        track=track if on_track else None,
        stealth=_only(name, "a disguise", [one.stealth for one in contaminations]),
        collude=_only(name, "a collusion", [one.collude for one in contaminations]),
        craft=_joined(on_craft) if on_craft else None,
        train=_only(name, "a training of its own", [one.train for one in contaminations]),
    )


def _check_learnt(name: str, contaminations: Sequence[Contamination]) -> None:
    for one in contaminations:
        if one.learnt is not None:
            raise ValueError(f"{name}: {one.name} trains its trigger and cannot be joined")


def _joined(crafts: Sequence[Craft]) -> Craft:
    def craft(model: Any, images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
        for one in crafts:
            images = one(model, images, labels, generator)
        return images

    return craft


def _only(name: str, what: str, found: Sequence[Part | None]) -> Part | None:
    """The one that is not None, if any is."""
    given = [one for one in found if one is not None]
    if len(given) > 1:
        raise ValueError(
            f"{name}: only one of the joined contaminations may have {what}, not {len(given)}"
        )
    return given[0] if given else None


def parts_period(contamination: Contamination) -> int:
    """After how many clients the parts begin anew; 1 where all suffer the same."""
    parts = contamination.parts
    return len(parts) * math.lcm(*(parts_period(one) for one in parts)) if parts else 1


def for_rank(contamination: Contamination, rank: int) -> Contamination:
    """The contamination of the client of this rank (0, 1, ... in the order of ids) among those of
    its kind."""
    if not contamination.parts:
        return contamination
    turn, place = divmod(rank, len(contamination.parts))
    return for_rank(contamination.parts[place], turn)


def contaminate(samples: Samples, contamination: Contamination, generator: Generator) -> Samples:
    """The samples after `contamination.data`. Changed images are float32 in [0, 1]; untouched ones
    keep their storage (uint8 stays uint8), and where nothing at all changed the very same object
    comes back."""
    if contamination.data is keep_data:
        return samples
    unit = as_unit(samples.images)
    images, labels = contamination.data(unit, samples.labels, generator)
    if images is unit:
        images = samples.images
    if images is samples.images and labels is samples.labels:
        return samples
    return Samples(images, labels)


def craft_samples(
    samples: Samples, contamination: Contamination, model: Any, generator: Generator
) -> Samples:
    """The samples after `contamination.craft` against this model; the very same object where it has
    none or changes nothing."""
    if contamination.craft is None:
        return samples
    unit = as_unit(samples.images)
    images = contamination.craft(model, unit, samples.labels, generator)
    return samples if images is unit else Samples(images, samples.labels)


def trigger_samples(samples: Samples, backdoor: Backdoor) -> Samples:
    """The images on which a backdoor's success is measured: those of its source class, or all whose
    true class is not the target, with the trigger put on.

    Attack success rate = share of them predicted as `backdoor.target`. May be empty.
    """
    victims = samples.take(victim_rows(samples.labels, backdoor))
    return put_trigger(victims, backdoor)


def victim_rows(labels: Tensor, backdoor: Backdoor) -> Tensor:
    """The positions (n,) of a backdoor's victims among the images with these labels (N,)."""
    eligible = labels != backdoor.target if backdoor.source is None else labels == backdoor.source
    return eligible.nonzero().reshape(-1)


def put_trigger(victims: Samples, backdoor: Backdoor) -> Samples:
    """All these images with the trigger put on."""
    return Samples(backdoor.trigger(as_unit(victims.images)), victims.labels)


def crafts(contamination: Contamination) -> bool:
    """Whether it, or a part of it, crafts images against the received model."""
    return contamination.craft is not None or any(crafts(one) for one in contamination.parts)


def attacker_owned(contamination: Contamination) -> bool:
    """Whether the attacker controls the client, not only its data. An attacker who changes the
    training or the update does not sanitise its own images."""
    tampers = contamination.update is not keep_update or contamination.track is not None
    trains = contamination.stealth is not None or contamination.train is not None
    return tampers or trains or contamination.collude is not None
