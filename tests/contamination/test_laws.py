"""The laws of `fedrobust.testing` for every contamination, and those of its yaml. A new yaml in
configs/contamination is tested by its mere existence."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_method
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import fedrobust.contamination
from fedrobust import configs
from fedrobust.contamination.apply import contaminate
from fedrobust.contamination.base import Contamination
from fedrobust.errors import ConfigError
from fedrobust.experiment import factories
from fedrobust.testing import CONTAMINATION_LAWS, LawError
from fedrobust.testing.contaminations import example_samples, example_states
from fedrobust.utils.seeding import generator

FOLDER = Path(configs.__file__).parent / "contamination"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
K = 5
TOLD = {"num_classes", "class_names"}  # keywords that come from the data set
EXCEPTIONS = {
    ("backdoor_blended", "trigger_twice"),
    ("backdoor_edge_case", "trigger"),  # the victims themselves are the trigger
    ("free_rider", "buffers"),  # sends back what it got
    ("not_finite", "finite"),
}
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
def test_it_has_the_name_of_its_file(name: str) -> None:
    assert build(name).name == name


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


@pytest.mark.parametrize("law", CONTAMINATION_LAWS)
@every
@settings(max_examples=10)
@given(seed=st.integers(0, 2**31))
def test_every_contamination_keeps_the_laws(name: str, law: str, seed: int) -> None:
    if (name, law) not in EXCEPTIONS:
        CONTAMINATION_LAWS[law](build(name), seed)


@pytest.mark.parametrize(("name", "law"), sorted(EXCEPTIONS))
def test_the_exceptions_are_some(name: str, law: str) -> None:
    with pytest.raises(LawError):
        CONTAMINATION_LAWS[law](build(name), 0)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if {"rate", "std"} & signature(name).keys()]
)
def test_strength_zero_is_the_identity(name: str) -> None:
    zero = {key: 0.0 for key in ("rate", "std") if key in signature(name)}
    built, given_samples, (trained, reference) = (
        build(name, **zero),
        example_samples(),
        example_states(),
    )
    for one in (built, *built.parts):
        assert contaminate(given_samples, one, generator(1)) is given_samples
        assert one.update(trained, reference, generator(1)) is trained
        assert one.track is None or one.track(trained, reference, reference) is trained
