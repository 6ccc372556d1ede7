"""Laws of contaminations: of images and labels, of updates, of backdoors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch

from fedrobust.contamination.apply import contaminate, trigger_samples
from fedrobust.contamination.base import Contamination, keep_data, keep_update
from fedrobust.state import State
from fedrobust.testing.laws import SEEDS, Law, check_laws, copied, require, same
from fedrobust.types import Samples
from fedrobust.utils.images import as_unit
from fedrobust.utils.seeding import generator

CLASSES = 5


def check_contamination(
    contamination: Contamination, *, without: Collection[str] = (), seeds: Iterable[int] = SEEDS
) -> None:
    """Put a contamination through the laws in `CONTAMINATION_LAWS`.

    Attacks on a trained model (`craft`), disguises (`stealth`), trainings (`train`) and collusions
    are not called.

    Args:
        contamination: what the factory returns for 5 classes (`num_classes=5` where it takes it).
        without: names of laws that it does not claim to keep.
        seeds: of the images, the updates and its own randomness.

    Raises:
        LawError: a law does not hold; the message says which.
        ValueError: `without` names no law.
    """
    check_laws(contamination.name, contamination, CONTAMINATION_LAWS, seeds, without)


def example_samples(count: int = 23, seed: int = 0) -> Samples:
    """Random images (count, 3, 12, 10), uint8, of 5 classes in turn."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, 12, 10), generator=g, dtype=torch.uint8)
    return Samples(images, torch.arange(count) % CLASSES)


def example_states(seed: int = 0) -> tuple[State, State]:
    """A trained and a received model of 50 parameters and 6 BatchNorm statistics."""
    g = torch.Generator().manual_seed(seed)
    trained, received = (
        State(torch.randn(50, generator=g), torch.rand(6, generator=g)) for _ in range(2)
    )
    return trained, received


def _effect(contamination: Contamination, seed: int) -> None:
    """It does something: at least one of its functions is not the identity."""
    one = contamination
    plain = one.data is keep_data and one.update is keep_update
    others = (one.track, one.collude, one.craft, one.stealth, one.train)
    require(not plain or any(found is not None for found in others), "it is the identity")


def _require_samples(before: Samples, after: Samples) -> None:
    require(after.images.shape == before.images.shape, f"images are {tuple(after.images.shape)}")
    require(after.labels.shape == before.labels.shape, f"labels are {tuple(after.labels.shape)}")
    require(after.labels.dtype == torch.int64, f"labels are {after.labels.dtype}")
    known = (after.labels >= 0) & (after.labels < CLASSES)
    require(known.all(), f"labels are {sorted(set(after.labels.tolist()))} of {CLASSES} classes")
    if after.images is not before.images:
        require(after.images.dtype == torch.float32, f"images are {after.images.dtype}")
        inside = (after.images >= 0) & (after.images <= 1)  # false for NaN
        require(inside.all(), "images have values outside [0, 1], or NaN")


def _data(contamination: Contamination, seed: int) -> None:
    """Images and labels keep shape, type and range, and the given ones are not changed."""
    given = example_samples(seed=seed)
    before = copied(given)
    after = contaminate(given, contamination, generator(seed))
    require(same(given, before), "the given images or labels are changed in place")
    _require_samples(given, after)
    if contamination.data is keep_data:
        require(after is given, "samples are others, although its data is keep_data")


def _float_images(contamination: Contamination, seed: int) -> None:
    """Images that are floats in [0, 1] already are not changed in place either."""
    whole = example_samples(seed=seed)
    given = Samples(whole.images / 255, whole.labels)
    before = copied(given)
    _require_samples(given, contaminate(given, contamination, generator(seed)))
    require(same(given, before), "the given images or labels are changed in place")


def _few_images(contamination: Contamination, seed: int) -> None:
    """No image, one image, and images of one class alone are contaminated like any."""
    whole = example_samples(seed=seed)
    alone = (whole.labels == seed % CLASSES).nonzero().reshape(-1)
    for given in (example_samples(0), example_samples(1, seed), whole.take(alone)):
        _require_samples(given, contaminate(given, contamination, generator(seed)))


def _generator(contamination: Contamination, seed: int) -> None:
    """The given generator decides everything: equal seeds give equal bits, and torch's global
    random numbers stay untouched."""
    given, models = example_samples(seed % 31, seed), example_states(seed)
    before = torch.random.get_rng_state()
    one, two = (contaminate(given, contamination, generator(seed)) for _ in range(2))
    require(same(one, copied(two)), "images or labels differ")
    sent = [contamination.update(*models, generator(seed)) for _ in range(2)]
    require(same(sent[0], copied(sent[1])), "updates differ")
    require(torch.equal(before, torch.random.get_rng_state()), "global random numbers are drawn")


def _update(contamination: Contamination, seed: int) -> None:
    """A sent model has the trained one's sizes and type, and neither given one is changed."""
    trained, received = example_states(seed)
    before = copied(trained), copied(received)
    after = contamination.update(trained, received, generator(seed))
    require(same(trained, before[0]), "the trained model is changed in place")
    require(same(received, before[1]), "the received model is changed in place")
    require(
        after.parameters.shape == trained.parameters.shape
        and after.buffers.shape == trained.buffers.shape,
        "the sent model has other sizes",
    )
    require(after.parameters.dtype == torch.float32, f"parameters are {after.parameters.dtype}")


def _buffers(contamination: Contamination, seed: int) -> None:
    """A sent model has the trained one's BatchNorm statistics."""
    trained, received = example_states(seed)
    after = contamination.update(trained, received, generator(seed))
    require(torch.equal(after.buffers, trained.buffers), "they are others")


def _finite(contamination: Contamination, seed: int) -> None:
    """A sent model is finite: one that is not is refused, and harms nobody."""
    after = contamination.update(*example_states(seed), generator(seed))
    require(after.parameters.isfinite().all(), "it holds NaN or infinity")


def _backdoor(contamination: Contamination, seed: int) -> None:
    """A backdoor can be measured: its victims are of other classes than its target, or of its
    source, and triggered images lie in [0, 1]; the given ones are not changed."""
    backdoor = contamination.backdoor
    if backdoor is None:
        return
    given = example_samples(seed=seed)
    before, unit = copied(given), as_unit(given.images)
    shown = unit.clone()
    triggered = backdoor.trigger(unit)
    require(torch.equal(unit, shown), "the trigger changes the given images in place")
    require(((triggered >= 0) & (triggered <= 1)).all(), "triggered images lie outside [0, 1]")
    victims = trigger_samples(given, backdoor)
    require(same(given, before), "the given images or labels are changed in place")
    source, target = backdoor.source, backdoor.target
    hit = given.labels != target if source is None else given.labels == source
    require(len(victims) == int(hit.sum()), f"{len(victims)} victims instead of {int(hit.sum())}")
    require(not (victims.labels == target).any(), "images of the target class are victims")
    nobody = given.take((given.labels == target).nonzero().reshape(-1))
    require(len(trigger_samples(nobody, backdoor)) == 0, "there are victims without other classes")


def _trigger(contamination: Contamination, seed: int) -> None:
    """A backdoor's trigger changes the images."""
    if contamination.backdoor is not None:
        unit = as_unit(example_samples(seed=seed).images)
        require(not torch.equal(contamination.backdoor.trigger(unit), unit), "it changes nothing")


def _trigger_twice(contamination: Contamination, seed: int) -> None:
    """A trigger on an image that has it changes nothing more."""
    if contamination.backdoor is not None:
        once = contamination.backdoor.trigger(as_unit(example_samples(seed=seed).images))
        again = contamination.backdoor.trigger(once)
        require(torch.equal(again, once), "it changes the image again")


CONTAMINATION_LAWS: Mapping[str, Law[Contamination]] = {
    "effect": _effect,
    "data": _data,
    "float_images": _float_images,
    "few_images": _few_images,
    "generator": _generator,
    "update": _update,
    "buffers": _buffers,
    "finite": _finite,
    "backdoor": _backdoor,
    "trigger": _trigger,
    "trigger_twice": _trigger_twice,
}
