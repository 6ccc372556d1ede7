"""Nothing in a configuration that came from another machine names a place on this one, in whatever
group and however deep."""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from fedrobust.errors import ConfigError, RefusalError
from fedrobust.experiment import factories
from fedrobust.experiment.local_settings import (
    LOCAL,
    check_no_local_settings,
    without_local_settings,
)
from fedrobust.experiment.settings import ServerSettings, Settings
from fedrobust.utils.validation import Built, marks, setting_types
from tests.experiment.test_settings_table import CHOICES
from tests.helpers import federations

# noise and corruption are made in the room of contamination
GROUPS = sorted(set(factories.FACTORY_PACKAGES) - {"noise", "corruption"})
PATH = "some_file"  # a relative one, which looks like any other word
# settings that take any word or hold others, and what they are; whatever is a path belongs into
# local_settings.LOCAL instead
WORDS = {
    "contamination.contaminations": "groups, each read like any other",
    "contamination.levels": "numbers",
    "contamination.name": "what reports call it",
    "contamination.pairs": "names of classes",
    "contamination.source": "the name of a class",
    "contamination.target": "the name of a class",
    "client.lr_plateau": "keywords of ReduceLROnPlateau",
    "client.optimizer": "a name of torch.optim and its keywords",
    "data.classes": "names of classes",
    "data.group": "a column of a table",
    "data.image": "a column of a table",
    "data.label": "a column of a table",
    "data.name": "what reports call the data set",
    "data.site": "a column of a table, or one of its values",
    "data.split": "a column of a table",
    "model.compile": "one of torch's backends, which the factory checks",
    "model.members": "backbones; their own settings are read like any other",
    "model.name": "one of timm's models, which the factory checks",
    "model.options": "keywords of timm; those that name files are refused (size_limits.OURS)",
    "partition.options": "numbers and a column's name for one of flower_partitioners.NAMES; none "
    "of them opens a file, and a site with images of its own accepts partition=remote only",
    "purifier.name": "what reports call it",
    "tracker.experiment_name": "a name in MLflow",
    "tracker.project": "a name in W&B",
    "tracker.run_name": "what a tracker calls the run",
}


def every_factory(group: str) -> Iterator[Callable[..., Any]]:
    """All that a configuration can call there, with a yaml or without."""
    room = importlib.import_module(factories.FACTORY_PACKAGES[group])
    names = [room.__name__]
    if hasattr(room, "__path__"):
        names += [one.name for one in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")]
    for module in map(importlib.import_module, names):
        for name, found in vars(module).items():
            if inspect.isfunction(found) and found.__module__ == module.__name__:
                try:
                    yield factories.find_factory(group, f"{module.__name__}.{name}")
                except ConfigError:
                    continue


def takes(kind: Any, value: Any) -> bool:
    """Whether a setting of this type may have the value."""
    if any(isinstance(one, Built) for one in marks(kind)):
        return False
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except (ValidationError, PydanticSchemaGenerationError):  # also objects of the program's own
        return False
    return True


def free_settings(types: dict[str, Any]) -> set[str]:
    """Those that take any word, or hold others."""
    examples = (PATH, [PATH, "another"], [[PATH, "another"]], {"name": PATH}, [{"name": PATH}])
    return {name for name, kind in types.items() if any(takes(kind, one) for one in examples)}


@pytest.mark.parametrize("group", GROUPS)
def test_every_setting_that_takes_any_word_is_a_place_or_known_not_to_be(group: str) -> None:
    found = set()
    for factory in every_factory(group):
        parts = [factory, *getattr(factory, "__groups__", {}).values()]
        for part in parts:
            found |= free_settings(setting_types(part))
    unknown = {f"{group}.{name}" for name in found - set(LOCAL)} - set(WORDS)
    assert not unknown, "a path, an address or what else? see local_settings.LOCAL"


def test_the_settings_beside_the_groups_are_known_too() -> None:
    server = {name: one.annotation for name, one in ServerSettings.model_fields.items()}
    plain = {
        name: one.annotation
        for name, one in Settings.model_fields.items()
        if name not in GROUPS and name != "server"
    }
    assert free_settings(server) == {"scratch_dir"}
    assert free_settings(plain) == set()


def test_the_walk_finds_what_is_a_path() -> None:
    found = {
        name
        for group in GROUPS
        for factory in every_factory(group)
        for part in (factory, *getattr(factory, "__groups__", {}).values())
        for name in free_settings(setting_types(part))
    }
    assert set(LOCAL) - {"pretrained", "scratch_dir"} <= found


def every_place(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something lies in a configuration, at any depth."""
    if path and path[-1] != "_target_":
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, (dict, list)):
            yield from every_place(inner, (*path, key))
        elif key != "_target_":
            yield (*path, key)


def put(config: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    inside: Any = changed
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return changed


@pytest.mark.parametrize("choice", CHOICES)
def test_no_setting_of_any_choice_takes_a_place(choice: str) -> None:
    group, _, written = CHOICES[choice]
    sent = without_local_settings({group: written})
    check_no_local_settings(sent)
    for path in every_place(sent):
        for place in ("/etc/shadow", "../up", "~/x", "C:\\x", "host:6379", "https://host/x"):
            with pytest.raises(RefusalError, match="names a file, folder or address"):
                check_no_local_settings(put(sent, path, place))
        if path[-1] in LOCAL:
            for place in ("file", "auto", True, ["file"], {"file": 1}, 1, ""):
                with pytest.raises(RefusalError):
                    check_no_local_settings(put(sent, path, place))


@pytest.mark.parametrize(
    "config",
    [
        {"model": {"members": [{"name": "resnet18", "checkpoint": "file"}]}},
        {"model": {"members": [{"name": "resnet18", "pretrained": True}]}},
        {"client": {"optimizer": {"name": "Adam", "path": "x"}}},
        {"client": {"a": [[{"b": {"root": 0}}]]}},
        {"strategy": {"aggregation": {"_target_": "/etc/passwd"}}},
        {"server": {"scratch_dir": "x"}},
        {"engine": {"address": "auto"}},
        {"/etc/passwd": 1},
        {"seed": "/etc/passwd"},
    ],
)
def test_any_depth_is_refused_and_cleared(config: dict[str, Any]) -> None:
    with pytest.raises(RefusalError, match=r"^\S+='?.{1,80}'?: names a file"):
        check_no_local_settings(config)
    cleared = without_local_settings(config)
    named = "etc" in str(config)  # a place where none can be meant is nobody's to clear
    if not named:
        check_no_local_settings(cleared)


@pytest.mark.parametrize(
    "word",
    [
        "tracker=tensorboard",
        "tracker._target_=fedrobust.runtime.server.loop.build_server_context",
        "stop_when.seconds=60",
        "stop_when.patience=3",
        "schedule.from_round=2",
    ],
)
def test_what_concerns_the_server_alone_is_refused_and_cleared(word: str) -> None:
    config = federations.compose_settings("partition=remote", word)
    name = word.partition("=")[0].partition(".")[0]
    with pytest.raises(RefusalError, match=f"^{name}=.{{1,82}}: concerns the server alone"):
        check_no_local_settings(config)
    check_no_local_settings(without_local_settings(config))


def test_what_is_sent_to_sites_is_the_run_without_the_server_s_own_places() -> None:
    config = federations.compose_settings(
        "partition=remote",
        "data=npz",
        "data.path=/srv/reference.npz",
        "model.pretrained=true",
        "server.scratch_dir=/scratch",
        "engine=ray",
        "engine.address=head:6379",
    )
    kept = copy.deepcopy(config)
    sent = without_local_settings(config)
    check_no_local_settings(sent)
    assert config == kept
    assert sent.pop("data") == {"_target_": "fedrobust.data.synthetic.synthetic"}
    assert config["tracker"]
    assert "tracker" not in sent
    assert sent["model"] == {**config["model"], "pretrained": False}
    changed = {group for group in sent if sent[group] != config[group]}
    assert changed == {"model", "server", "engine"}


def test_a_run_s_own_words_are_no_places() -> None:
    words = ("nevus", "resnet18.a1_in1k", "vit_tiny_patch16_224", "nan", "-inf", "ü", "a b", "")
    check_no_local_settings({"model": {"name": list(words)}})
    with pytest.raises(ConfigError, match=r"model\.name"):  # as a place is
        check_no_local_settings({"model": {"name": [*words, "/srv/weights"]}})
