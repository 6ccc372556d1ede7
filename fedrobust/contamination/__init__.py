"""Injected damage as values: one factory a file, each returning a `types.Contamination`. Here: how to join and apply them."""

from __future__ import annotations

from torch import Generator, Tensor

from fedrobust.images import as_unit
from fedrobust.types import Backdoor, Contamination, Samples, State, keep_data, keep_update


def compose(name: str, *contaminations: Contamination) -> Contamination:
    """Several contaminations, one after the other, as one; they share the generator. None at all: the identity.

    Raises ValueError when more than one has a backdoor, since only one attack success rate can be measured.
    """
    on_data = [one.data for one in contaminations if one.data is not keep_data]
    on_update = [one.update for one in contaminations if one.update is not keep_update]
    backdoors = [one.backdoor for one in contaminations if one.backdoor is not None]
    if len(backdoors) > 1:
        raise ValueError(f"{name}: only one of the joined contaminations may have a backdoor, not {len(backdoors)}")

    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        for step in on_data:
            images, labels = step(images, labels, generator)
        return images, labels

    def update(trained: State, reference: State, generator: Generator) -> State:
        for step in on_update:
            trained = step(trained, reference, generator)
        return trained

    return Contamination(
        name,
        data=data if on_data else keep_data,
        update=update if on_update else keep_update,
        backdoor=backdoors[0] if backdoors else None,
    )


def contaminate(samples: Samples, contamination: Contamination, generator: Generator) -> Samples:
    """The samples after `contamination.data`. Changed images are float32 in [0, 1]; untouched ones keep their storage
    (uint8 stays uint8), and where nothing at all changed the very same object comes back."""
    if contamination.data is keep_data:
        return samples
    unit = as_unit(samples.images)
    images, labels = contamination.data(unit, samples.labels, generator)
    if images is unit:
        images = samples.images
    if images is samples.images and labels is samples.labels:
        return samples
    return Samples(images, labels)


def triggered(samples: Samples, backdoor: Backdoor) -> Samples:
    """The images on which a backdoor's success is measured: all whose true class is not the target, with the trigger put on.

    Attack success rate = share of them predicted as `backdoor.target`. May be empty.
    """
    victims = samples.take((samples.labels != backdoor.target).nonzero().reshape(-1))
    return Samples(backdoor.trigger(as_unit(victims.images)), victims.labels)
