"""Every setting of every yaml is one of its factory, with the same default and a description."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedrobust import configs
from fedrobust.experiment.choices import choice_settings
from fedrobust.experiment.factories import FACTORY_PACKAGES, find_factory
from fedrobust.utils.settings_table import list_settings

CONFIGS = Path(configs.__file__).parent
# keys whose default differs on purpose: (group, choice, key) -> why
DIFFERENT: dict[tuple[str, str, str], str] = {
    ("contamination", "mixture", "contaminations"): "the yaml shows an example; a mixture of "
    "nothing is refused",
    ("model", "resnet50", "options"): "the yaml shows what suits small images",
    ("purifier", "mdda", "smoothing"): "the yaml shows what was chosen by measurement",
    ("client", "fedetf", "loss"): "the trainer has no other loss",
    ("client", "fedgela", "loss"): "the trainer has no other loss",
    ("client", "fedloge", "loss"): "the trainer has no other loss",
    ("model", "meff", "dimension"): "the yaml shows what suits its small members",
}


def choices() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for group in FACTORY_PACKAGES:
        for path in sorted((CONFIGS / group).glob("*.yaml")):
            read = yaml.safe_load(path.read_text())
            if isinstance(read, dict) and "_target_" in read:
                yield group, path.stem, choice_settings(group, path.stem)


def flat(read: dict[str, Any], names: set[str]) -> Iterator[tuple[str, Any]]:
    """(key, value), of groups inside the group (`field.key` among the names) each of theirs."""
    for key, value in read.items():
        if any(name.startswith(f"{key}.") for name in names):
            yield from ((f"{key}.{inner}", one) for inner, one in value.items())
        else:
            yield key, value


def default_of(factory: Callable[..., Any], key: str) -> Any:
    name, _, inner = key.partition(".")
    default = inspect.signature(factory).parameters[name].default
    return getattr(default, inner) if inner else default


CHOICES = {f"{group}={name}": (group, name, read) for group, name, read in choices()}


@pytest.mark.parametrize("choice", CHOICES)
def test_yaml_and_signature_agree(choice: str) -> None:
    group, name, read = CHOICES[choice]
    factory = find_factory(group, read["_target_"])
    names = {row.name for row in list_settings(factory)}
    shown = {key: value for key, value in flat(read, names) if key != "_target_"}
    assert set(shown) == names
    for key, value in shown.items():
        default = default_of(factory, key)
        if value == "???":  # Hydra's mark of a value to be given
            assert default is inspect.Parameter.empty, key
        elif (group, name, key) not in DIFFERENT:
            assert (list(default) if isinstance(default, tuple) else default) == value, key
            assert type(default) is type(value) or isinstance(default, tuple), key


@pytest.mark.parametrize("choice", CHOICES)
def test_every_setting_has_a_type_and_a_description(choice: str) -> None:
    group, _, read = CHOICES[choice]
    for row in list_settings(find_factory(group, read["_target_"])):
        assert row.description, row.name
        assert row.kind != "any", row.name


def test_the_differences_exist() -> None:
    for group, name, key in DIFFERENT:
        read = CHOICES[f"{group}={name}"][2]
        assert default_of(find_factory(group, read["_target_"]), key) != read[key]
