"""Laws of every contamination. A new yaml in configs/contamination is tested by its mere
existence."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_method
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import fedrobust.contamination
from fedrobust import configs
from fedrobust.contamination.apply import contaminate, trigger_samples
from fedrobust.contamination.base import Contamination, keep_data, keep_update
from fedrobust.errors import ConfigError
from fedrobust.experiment import factories
from fedrobust.state import State
from fedrobust.types import Samples
from fedrobust.utils.images import as_unit
from fedrobust.utils.seeding import generator

FOLDER = Path(configs.__file__).parent / "contamination"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
K = 5
TOLD = {"num_classes", "class_names"}  # keywords that come from the data set
NOT_TWICE = {"backdoor_blended"}  # triggers that change an image again which has them
NO_TRIGGER = {"backdoor_edge_case"}  # the victims themselves are the trigger
LAZY = {"free_rider"}  # sends back what it got
NO_NUMBERS = {"not_finite"}
HELPERS = {  # modules with functions that return contaminations and are no factories
    "fedrobust.contamination.apply",
    "fedrobust.contamination.updates.collusion",
    "fedrobust.contamination.updates.distance_bounded",
}
every = pytest.mark.parametrize("name", NAMES)


def settings_of(name: str) -> Any:
    return OmegaConf.load(FOLDER / f"{name}.yaml")


def signature(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(get_method(settings_of(name)._target_)).parameters)


def nested(name: str) -> dict[str, Any]:
    shown = OmegaConf.to_container(settings_of(name))
    assert isinstance(shown, dict)
    return {str(key): value for key, value in shown.items()}


def defaults(name: str) -> dict[str, Any]:
    return {key: value for key, value in nested(name).items() if key != "_target_"}


def holds_targets(value: Any) -> bool:
    return isinstance(value, list) and any(
        isinstance(one, dict) and "_target_" in one for one in value
    )


def build(name: str, num_classes: Any = K, **overrides: Any) -> Contamination:
    built = factories.build_group(
        {"contamination": {**nested(name), **overrides}}, "contamination", num_classes=num_classes
    )
    assert isinstance(built, Contamination)
    return built


def those(key: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [name for name in NAMES if key in signature(name)])


def samples(n: int = 23, seed: int = 0) -> Samples:
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (n, 3, 12, 10), generator=g, dtype=torch.uint8)
    return Samples(images, torch.arange(n) % K)


def states(seed: int = 0) -> tuple[State, State]:
    g = torch.Generator().manual_seed(seed)
    trained, reference = (
        State(torch.randn(50, generator=g), torch.rand(6, generator=g)) for _ in range(2)
    )
    return trained, reference


def copied(value: Samples | State) -> list[torch.Tensor]:
    return [getattr(value, name).clone() for name in type(value).__slots__]


def same(value: Samples | State, tensors: list[torch.Tensor]) -> bool:
    own = [getattr(value, name) for name in type(value).__slots__]
    pairs = [
        (a.double(), b.double())
        for a, b in zip(own, tensors, strict=True)
        if a.dtype == b.dtype and a.shape == b.shape
    ]
    return len(pairs) == len(own) and all(
        torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs
    )


def test_every_factory_has_its_yaml() -> None:
    package = fedrobust.contamination
    modules = [
        importlib.import_module(one.name)
        for one in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not one.ispkg
    ]
    factories = {
        f"{module.__name__}.{name}"
        for module in modules
        for name, one in inspect.getmembers(module, inspect.isfunction)
        if one.__module__ == module.__name__
        and one.__annotations__.get("return") == "Contamination"
    }
    named = {settings_of(name)._target_ for name in NAMES}
    assert named <= factories
    assert {name.rpartition(".")[0] for name in factories} - {
        name.rpartition(".")[0] for name in named
    } == HELPERS


@every
def test_the_yaml_shows_every_setting_with_its_default(name: str) -> None:
    known = {key: one.default for key, one in signature(name).items() if key not in TOLD}
    shown = {
        key: known.get(key) if holds_targets(value) else value
        for key, value in defaults(name).items()
    }
    assert {
        key: list(value) if isinstance(value, tuple) else value for key, value in shown.items()
    } == {key: list(value) if isinstance(value, tuple) else value for key, value in known.items()}


@every
def test_builds_and_does_something(name: str) -> None:
    built = build(name)
    assert built.name == name
    assert (
        built.data is not keep_data or built.update is not keep_update or built.track is not None
        or built.collude is not None or built.craft is not None
    )  # fmt: skip


@those("num_classes")
def test_a_factory_that_needs_the_number_of_classes_says_so(name: str) -> None:
    for wrong in (None, 1, "five"):
        with pytest.raises(ConfigError, match="num_classes"):
            build(name, num_classes=wrong)


@every
def test_wrong_types_and_values_end_in_a_config_error(name: str) -> None:
    for key in defaults(name):
        for wrong in ("nonsense", -7.5, math.nan, [[]]):
            with pytest.raises(ConfigError, match=key):
                build(name, **{key: wrong})


@every
def test_data_keeps_shapes_types_and_ranges_and_never_touches_its_input(name: str) -> None:
    built, given_samples = build(name), samples()
    before = copied(given_samples)
    after = contaminate(given_samples, built, generator(1))
    assert same(given_samples, before)
    assert after.images.shape == given_samples.images.shape
    assert after.labels.shape == given_samples.labels.shape
    assert after.labels.dtype == torch.int64
    assert 0 <= int(after.labels.min()) <= int(after.labels.max()) < K
    if after.images is not given_samples.images:
        assert after.images.dtype == torch.float32
        assert 0 <= float(after.images.min()) <= float(after.images.max()) <= 1
    if built.data is keep_data:
        assert after is given_samples


@every
def test_data_takes_floats_and_leaves_them_alone(name: str) -> None:
    unit = Samples(samples().images / 255, samples().labels)
    before = copied(unit)
    contaminate(unit, build(name), generator(1))
    assert same(unit, before)


@every
def test_update_keeps_sizes_and_buffers_and_never_touches_its_input(name: str) -> None:
    built, (trained, reference) = build(name), states()
    before = copied(trained), copied(reference)
    after = built.update(trained, reference, generator(1))
    assert same(trained, before[0])
    assert same(reference, before[1])
    assert after.parameters.shape == trained.parameters.shape
    assert after.parameters.dtype == torch.float32
    assert torch.equal(after.buffers, (reference if name in LAZY else trained).buffers)
    assert after.parameters.isfinite().all() == (name not in NO_NUMBERS)


@every
@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), n=st.integers(0, 30))
def test_the_generator_decides_everything(name: str, seed: int, n: int) -> None:
    built = build(name)
    one, two = (contaminate(samples(n), built, generator(seed)) for _ in range(2))
    assert same(one, copied(two))
    sent = [built.update(*states(seed), generator(seed)) for _ in range(2)]
    assert same(sent[0], copied(sent[1]))


@pytest.mark.parametrize(
    "name", [name for name in NAMES if {"rate", "std"} & signature(name).keys()]
)
def test_strength_zero_is_the_identity(name: str) -> None:
    zero = {key: 0.0 for key in ("rate", "std") if key in signature(name)}
    built, given_samples, (trained, reference) = build(name, **zero), samples(), states()
    for one in (built, *built.parts):
        assert contaminate(given_samples, one, generator(1)) is given_samples
        assert one.update(trained, reference, generator(1)) is trained
        assert one.track is None or one.track(trained, reference, reference) is trained


@pytest.mark.parametrize("name", [name for name in NAMES if build(name).backdoor is not None])
def test_a_backdoor_can_be_measured(name: str) -> None:
    backdoor, given_samples = build(name).backdoor, samples()
    assert backdoor is not None
    before, unit = copied(given_samples), as_unit(given_samples.images)
    victims = trigger_samples(given_samples, backdoor)
    # returns a changed copy
    assert torch.equal(backdoor.trigger(unit), unit) == (name in NO_TRIGGER)
    assert torch.equal(unit, as_unit(given_samples.images))
    assert same(given_samples, before)
    hit = (
        given_samples.labels != backdoor.target
        if backdoor.source is None
        else given_samples.labels == backdoor.source
    )
    assert len(victims) == int(hit.sum())
    assert not (victims.labels == backdoor.target).any()
    twice = backdoor.trigger(victims.images)
    assert 0 <= float(twice.min()) <= float(twice.max()) <= 1
    assert torch.equal(twice, victims.images) == (name not in NOT_TWICE)
    nobody = given_samples.take((given_samples.labels == backdoor.target).nonzero().reshape(-1))
    assert len(trigger_samples(nobody, backdoor)) == 0
