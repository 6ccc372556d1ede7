"""A user's own packages: which factories a configuration may name, and which choices there are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from fedrobust.aggregation.round import Strategy
from fedrobust.errors import ConfigError
from fedrobust.experiment import (
    build,
    callables,
    choices,
    compose,
    factories,
    settings,
    settings_help,
)
from fedrobust.experiment.own_choices import check_plugins, known_choices, named_by_words
from fedrobust.runtime.server.clean_twin import twin_key
from fedrobust.utils import plugins, program
from tests.helpers.plugins import forget, importable

NAMED = "plugins=[mylab]"


@pytest.fixture
def mylab(tmp_path: Path) -> Iterator[Path]:
    with importable(tmp_path) as package:
        yield package


@pytest.fixture
def declared(mylab: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with an entry point."""
    found = {"mylab": EntryPoint("mylab", "mylab", plugins.ENTRY_POINTS)}
    monkeypatch.setattr(plugins, "_declared", lambda: found)
    return mylab


def test_a_plugin_adds_choices_and_factories(mylab: Path) -> None:
    config = compose.compose(NAMED, "strategy=mylab_rule", "strategy.longest=2.5")
    assert config["strategy"] == {"_target_": "mylab.rules.mylab_rule", "longest": 2.5}
    assert config["plugins"] == ["mylab"]
    assert settings.read_settings(config).plugins == ("mylab",)
    built: Strategy = factories.build_group(config, "strategy")
    assert built.name == "mylab_rule"
    darker = compose.compose(NAMED, "contamination@corruption=mylab_darker")["corruption"]
    assert darker["factor"] == 0.5


def test_a_plugin_s_rule_can_lie_inside_one_of_ours(mylab: Path) -> None:
    inner = {"_target_": "mylab.rules.mylab_rule"}
    config = compose.compose(NAMED, "strategy=etf_dml", "strategy.aggregation=null")
    config["strategy"]["aggregation"] = inner
    assert factories.build_group(config, "strategy").name == "etf_dml"
    config["plugins"] = []
    with pytest.raises(ConfigError, match=r"_target_=mylab\.rules\.mylab_rule: must name a"):
        factories.build_group(config, "strategy")


def test_without_its_name_nothing_of_it_is_there(mylab: Path) -> None:
    with pytest.raises(ConfigError, match="strategy=mylab_rule: no such choice"):
        compose.compose("strategy=mylab_rule")
    compose.compose(NAMED, "strategy=mylab_rule")
    with pytest.raises(ConfigError, match="strategy=mylab_rule: no such choice"):
        compose.compose("strategy=mylab_rule")
    assert compose.compose()["plugins"] == []
    assert "mylab_rule" in known_choices("strategy", [NAMED])
    assert "mylab_rule" not in known_choices("strategy")


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("strategy", "mylab.rules.norms"),  # imported there, defined elsewhere
        ("strategy", "mylab.rules.Strategy"),
        ("strategy", "mylab.attacks.mylab_darker"),  # makes something else
        ("strategy", "mylab.rules.missing"),
        ("strategy", "mylabx.rules.mylab_rule"),
        ("strategy", "subprocess.run"),
        ("engine", "mylab.rules.mylab_rule"),
        ("privacy", "mylab.rules.mylab_rule"),
        ("evaluation", "mylab.rules.mylab_rule"),
    ],
)
def test_a_plugin_s_functions_are_looked_at_as_ours_are(
    mylab: Path, group: str, target: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{group}\._target_={target}"):
        factories.find_factory(group, target, ["mylab"])


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("plugins=[nowhere]", "no such package can be imported; install it"),
        ("plugins=[os]", "is no plug-in"),
        ("plugins=[fedrobust]", "is no plug-in"),
        ("plugins=[__main__]", "is no plug-in"),
        ("plugins=[mylab.rules]", "without dots"),
        ("plugins=mylab,other", r"write plugins=\[mylab,other\]"),
    ],
)
def test_names_that_are_no_plugins(mylab: Path, word: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        compose.compose(word)


def test_plugins_are_named_on_the_command_line_alone(mylab: Path) -> None:
    assert named_by_words(["rounds=3", "plugins=mylab"]) == ("mylab",)
    with pytest.raises(ConfigError, match="stands there twice"):
        named_by_words([NAMED, "plugins=[other]"])
    with pytest.raises(ConfigError, match="stands in a yaml file"):
        compose.plain_config({**compose.compose(), "plugins": ["mylab"]})


def test_a_choice_of_a_plugin_has_a_name_of_its_own(mylab: Path) -> None:
    (mylab / "configs" / "strategy" / "krum.yaml").write_text("_target_: mylab.rules.mylab_rule\n")
    with pytest.raises(ConfigError, match=r"krum\.yaml has the name of a choice of fedrobust"):
        compose.compose(NAMED)


def test_help_names_its_choices_and_their_settings(mylab: Path) -> None:
    assert "mylab_rule" in settings_help.describe([NAMED, "--help"])
    text = " ".join(settings_help.describe([NAMED, "strategy=mylab_rule", "--help"]).split())
    assert "much longer updates are scaled down" in text
    assert "strategy.longest=1.5 number, at least 1: allowed length of an update" in text


def test_the_list_of_choices_has_its_own_without_an_import(mylab: Path) -> None:
    [choice] = choices.list_choices("strategy", ["mylab_rule"], [plugins.find_plugin("mylab")])
    assert (
        choice.description == "Every client counts alike, but much longer updates are scaled down."
    )
    assert "mylab_darker" in choices.choice_names("contamination", [plugins.find_plugin("mylab")])
    assert "mylab.rules" not in sys.modules


def test_a_sweep_finds_its_choices(mylab: Path) -> None:
    jobs = compose.expand_sweep([NAMED, "strategy=glob(my*)"])
    assert jobs == [[NAMED, "strategy=mylab_rule"]]


def test_an_installed_plugin_needs_no_name(declared: Path) -> None:
    assert compose.compose("strategy=mylab_rule")["plugins"] == ["mylab"]
    assert compose.compose("strategy=krum")["plugins"] == []  # a run without it stays what it was


def test_the_program_s_digest_covers_its_sources(mylab: Path) -> None:
    config = compose.compose(NAMED, "strategy=mylab_rule")

    def key(**changed: Any) -> str:
        return twin_key({**config, **changed}, "data", "cpu", (1, 1))

    own, before = key(plugins=[]), key()
    assert own != before
    facts = plugins.plugin_facts(["mylab"])
    assert facts["mylab"]["version"] is None
    (mylab / "attacks.py").write_text((mylab / "attacks.py").read_text() + "\n# edited\n")
    forget("mylab")
    assert key() != before
    assert key(plugins=[]) == own
    assert plugins.plugin_facts(["mylab"])["mylab"]["sources"] != facts["mylab"]["sources"]
    assert program.program_digest() != program.program_digest(("mylab",))


def test_a_file_alone_makes_no_code_run(declared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"plugins": ["mylab"]}
    check_plugins(config, (), "manifest.json")
    monkeypatch.setattr(plugins, "_declared", dict)
    with pytest.raises(
        ConfigError, match=r"stands in manifest\.json alone.* add plugins=\[mylab\]"
    ):
        check_plugins(config, (), "manifest.json")
    check_plugins(config, ["mylab"], "manifest.json")
    check_plugins({}, (), "manifest.json")  # of an older version


def test_an_older_configuration_has_none() -> None:
    config = compose.compose("experiment=smoke")
    del config["plugins"]
    assert settings.from_json(settings.to_json(config))["plugins"] == []
    with pytest.raises(ConfigError, match="must be names of packages"):
        settings.read_settings({**config, "plugins": ["/tmp/x"]})


def test_old_names_of_settings_are_ours_alone() -> None:
    trainer = {"_target_": "mylab.trainers.mine", "clip": 3}  # client.clip was renamed
    assert settings.from_json(settings.to_json({"client": trainer}))["client"] == trainer


def named(words: list[str], **given: Any) -> dict[str, Any]:
    with callables.named_functions(words, given) as (kept, plain):
        assert not any(callable(one) for one in plain.values())
        return compose.compose(*kept, *(f"{key}={one}" for key, one in plain.items()))


def test_a_function_is_a_choice_by_its_module_and_name(mylab: Path) -> None:
    from mylab.attacks import mylab_darker  # type: ignore[import-not-found]
    from mylab.rules import mylab_rule  # type: ignore[import-not-found]

    config = named(["strategy.longest=3", "experiment=smoke"], strategy=mylab_rule)
    assert config["strategy"] == {"_target_": "mylab.rules.mylab_rule", "longest": 3}
    assert config["plugins"] == ["mylab"]
    assert named([NAMED], corruption=mylab_darker)["corruption"]["factor"] == 0.5
    experiment = build.build_experiment(config)
    assert experiment.strategy.name == "mylab_rule"
    assert build.from_text(experiment.text) is experiment
    with callables.named_functions([], {"strategies": [mylab_rule, "krum"]}) as (words, plain):
        assert (words, plain) == ([NAMED], {"strategies": ["mylab.rules.mylab_rule", "krum"]})


def test_one_of_our_own_functions_needs_no_plugin() -> None:
    from fedrobust.strategies.krum import krum

    config = named([], strategy=krum)
    assert config["plugins"] == []
    assert config["strategy"]["f"] == 3


def from_main() -> Callable[..., Any]:
    def rule() -> None: ...

    rule.__module__, rule.__qualname__ = "__main__", "rule"
    return rule


def in_a_function() -> Callable[..., Any]:
    def rule() -> None: ...

    return rule


@pytest.mark.parametrize(
    ("key", "function", "line"),
    [
        ("strategy", from_main(), "is defined in this script or notebook"),
        ("strategy", in_a_function(), "is no function at the top of a module"),
        ("strategy", lambda: None, "is no function at the top of a module"),
        ("strategy", Strategy, "is no function at the top of a module"),
        ("rounds", compose.compose, "takes no function"),
        ("engine", compose.compose, "takes no function"),
        ("strategy", compose.compose, "must name a function in"),
    ],
)
def test_functions_that_cannot_be_taken(key: str, function: object, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        named([], **{key: function})


EVERY_KIND = """
from fedrobust.clients.sgd import sgd
from fedrobust.contamination.base import Evasion
from fedrobust.data.dataset import DataSource
from fedrobust.data.partition import Partitioner, iid
from fedrobust.data.synthetic import synthetic
from fedrobust.defences.sanitisation import Sanitiser, none
from fedrobust.learning.classifier import ModelFactory, timm_model
from fedrobust.types import NO_PURIFIER, ClientTrainer, Purifier
from fedrobust.utils.validation import Count, PositiveCount, check_settings

@check_settings("data")
def my_data(num_images: PositiveCount = 300) -> DataSource:
    return synthetic(num_images=num_images, size=16)

def my_partition() -> Partitioner:
    return iid()

def my_trainer() -> ClientTrainer:
    return sgd(epochs=1)

def my_model() -> ModelFactory:
    return timm_model(name="resnet10t", pretrained=False, dimension=8)

def my_purifier() -> Purifier:
    return NO_PURIFIER

def my_sanitiser() -> Sanitiser:
    return none()

def my_evasion() -> Evasion:
    return Evasion("mine")
"""


def test_every_other_kind_can_lie_in_a_plugin(mylab: Path) -> None:
    (mylab / "kinds.py").write_text(EVERY_KIND)
    made = {
        "data": "my_data",
        "partition": "my_partition",
        "client": "my_trainer",
        "model": "my_model",
        "purifier": "my_purifier",
        "sanitiser": "my_sanitiser",
        "evasion": "my_evasion",
    }
    groups = {group: {"_target_": f"mylab.kinds.{name}"} for group, name in made.items()}
    config = {**compose.compose("experiment=smoke", "strategy=fedavg", NAMED), **groups}
    experiment = build.build_experiment(config)
    assert len(experiment.dataset) == 300
    assert experiment.evasion.name == "mine"
    assert experiment.model.dimension == 8
    with pytest.raises(ConfigError, match=r"^data\._target_=mylab\.kinds\.my_data: must name a"):
        build.build_experiment({**config, "plugins": []})
