"""Configuration: every yaml composes and builds, wrong input ends in one helpful line, foreign
targets are refused."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import pytest

from fedrobust.aggregation.round import Strategy
from fedrobust.errors import ConfigError
from fedrobust.experiment import compose, factories, settings
from fedrobust.utils.yaml_files import read_yaml

CONFIGS = Path(__file__).parents[2] / "configs"
GROUPS = (
    *("data", "partition", "contamination", "model", "client"),
    *("strategy", "preaggregation", "server_optimizer", "engine", "evaluation", "sanitiser"),
    *("evasion", "purifier", "privacy", "tracker"),
)


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


# one choice of every group at a time: composing takes a tenth of a second, however many are named
ROWS = list(zip_longest(*(options(group) for group in GROUPS)))
NEEDS = {
    "data=csv": ["data.path=table.csv"],
    "data=npz": ["data.path=set.npz"],
    "partition=flwr_datasets": ["partition.name=IidPartitioner"],
}


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_every_choice_composes_and_builds(
    row: Sequence[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("set.npz").touch()
    chosen = {group: name for group, name in zip(GROUPS, row, strict=True) if name is not None}
    words = [f"{group}={name}" for group, name in chosen.items()]
    if "data" in chosen and "root" in read_yaml(CONFIGS / "data" / f"{chosen['data']}.yaml"):
        words.append("data.root=.")
    composed = compose.compose(*words, *(more for word in words for more in NEEDS.get(word, ())))
    settings.read_settings(composed)
    for group in chosen:
        assert factories.build_group(composed, group, num_classes=7) is not None


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_composes_and_checks(name: str) -> None:
    composed = compose.compose(f"experiment={name}")
    settings.read_settings(composed)
    for group in (
        "partition",
        "contamination",
        "noise",
        "corruption",
        "model",
        "client",
        "strategy",
        "engine",
        "evaluation",
    ):
        assert factories.build_group(composed, group, num_classes=7) is not None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["num_clients=0"], "num_clients=0"),
        (["num_clients=2.5"], "num_clients=2.5: must be a whole number"),
        (["rounds=true"], "rounds=True"),
        (["poisoned=11"], "poisoned=11: more than num_clients=10"),
        (["clients_per_round=11"], "clients_per_round=11: more than num_clients=10"),
        (["clients_per_round=0"], "clients_per_round=0"),
        (["clients_per_round=1.5"], "clients_per_round=1.5"),
        (["clients_per_round=0.0"], "clients_per_round=0.0"),
        (["clients_per_round=some"], "clients_per_round=some"),
        (["participants=3"], "participants=3: must be a list of at least one id"),
        (["participants=[]"], "participants=[]: must be a list of at least one id"),
        (["participants=[0,10]"], "participants=10: must be at most 9"),
        (["participants=[1,1]"], "participants=[1, 1]: names a client twice"),
        (
            ["participants=[1,2]", "clients_per_round=3"],
            "clients_per_round=3: more than participants=[1, 2]; lower it",
        ),
        (["server.max_updates_mb=-1"], "server.max_updates_mb=-1"),
        (["server.scratch_dir=3"], "server.scratch_dir=3"),
        (["poisoned=6", "noisy=6"], "together more than num_clients=10"),
        (["poisoned=[1,10]"], "poisoned=10: must be at most 9"),
        (["poisoned=[1,1]"], "names a client twice"),
        (["poisoned=[1]", "noisy=[1]"], "both poisoned and noisy"),
        (
            ["server.batchnorm=median"],
            "server.batchnorm=median: must be one of mean, local, recalibrate",
        ),
        (["server.proxy_images=0"], "server.batchnorm=recalibrate: needs proxy images"),
        (["server.checkpoint_every=-1"], "server.checkpoint_every=-1: must be at least 0"),
        (["server.keep_checkpoints=0"], "server.keep_checkpoints=0: must be at least 1"),
        (["server.max_examples=0"], "server.max_examples=0: must be at least 1"),
        (["rounds=1" + 30 * "0"], "rounds: must be a number of at most 64 bits"),
        (["device=tpu"], "device=tpu"),
        (["+server.colour=red"], "server.colour=red: unknown key"),
        (["+colour=red"], "colour=red: unknown key"),
        (["~seed"], "seed: is missing"),
        (["~server.proxy_images"], "server.proxy_images: is missing"),
        (["server=3"], "server=3: must hold"),
        (["stop_when=3"], "stop_when=3: must hold"),
        (["stop_when.metric=loss"], "stop_when.metric=loss: must be one of accuracy, balanced_acc"),
        (["stop_when.patience=0"], "stop_when.patience=0: must be at least 1"),
        (["stop_when.min_delta=-1"], "stop_when.min_delta=-1: must be at least 0"),
        (["stop_when.seconds=0"], "stop_when.seconds=0: must be greater than 0"),
        (["+stop_when.loss=1"], "stop_when.loss=1: unknown key"),
    ],
)
def test_wrong_settings_end_in_one_line(overrides: list[str], words: str) -> None:
    composed = compose.compose(*overrides)
    with pytest.raises(ConfigError) as error:
        settings.read_settings(composed)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "fedrobust.reporting.manifest.subprocess.run",
        "fedrobust.strategies.fedavg.torch.load",
        "fedrobust.strategies.krum._select",
        "fedrobust.runtime.server.rule_strategy.RuleStrategy",
        "fedrobust.strategies.nowhere.rule",
        "fedrobust.strategies",
        "fedrobust.contamination.labels.label_flip.label_flip",
        "",
        None,
        3,
    ],
)
def test_foreign_targets_are_refused(target: object) -> None:
    with pytest.raises(ConfigError, match=r"strategy\._target_="):
        factories.build_group({"strategy": {"_target_": target}}, "strategy")


def test_an_unknown_setting_names_its_full_key() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.speed=3: unknown setting; known are"):
        factories.build_group(
            {"strategy": {"_target_": "fedrobust.strategies.fedavg.fedavg", "speed": 3}}, "strategy"
        )


def test_a_factory_serving_several_groups_names_the_key_that_was_written() -> None:
    composed = compose.compose("noise.std=-1")
    with pytest.raises(ConfigError, match=r"^noise\.std=-1"):
        factories.build_group(composed, "noise", num_classes=7)


def test_nested_targets_stay_in_the_room() -> None:
    nested = {"_target_": "os.system", "command": "true"}
    with pytest.raises(ConfigError, match=r"must name a function in fedrobust\.strategies"):
        factories.build_group(
            {
                "strategy": {
                    "_target_": "fedrobust.strategies.etf_dml.etf_dml",
                    "aggregation": nested,
                }
            },
            "strategy",
        )


def test_build_gives_values() -> None:
    built = factories.build_group(compose.compose("strategy=krum", "strategy.f=1"), "strategy")
    assert isinstance(built, Strategy)
    assert (built.name, built.min_clients) == ("krum", 5)


def test_canonical_text_ignores_order_and_refuses_nan() -> None:
    assert (
        settings.to_json({"a": 1, "b": [2]})
        == settings.to_json({"b": [2], "a": 1})
        == '{"a":1,"b":[2]}'
    )
    with pytest.raises(ConfigError, match=r"^a\.b=nan; c=inf: give a finite number"):
        settings.to_json({"a": {"b": float("nan")}, "c": [float("inf"), 1.0]})


@pytest.mark.parametrize(
    ("wanted", "count"), [("null", 10), ("1", 1), ("10", 10), ("1.0", 10), ("0.25", 2), ("0.01", 1)]
)
def test_a_share_or_a_number_of_clients_per_round(wanted: str, count: int) -> None:
    assert (
        settings.read_settings(compose.compose(f"clients_per_round={wanted}")).num_participants
        == count
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"_target_": "fedrobust.runtime.engines.inline_engine", "threads": 3}),
        (
            ["engine.threads=2"],
            {"_target_": "fedrobust.runtime.engines.inline_engine", "threads": 2},
        ),
        (
            ["engine.threads=null"],
            {"_target_": "fedrobust.runtime.engines.inline_engine", "threads": None},
        ),
        (
            ["engine=auto", "engine.workers=2"],
            {"_target_": "fedrobust.runtime.engines.auto_engine", "workers": 2, "threads": None},
        ),
    ],
)
def test_the_engine_of_a_given_configuration_is_changed(
    words: list[str], expected: dict[str, object]
) -> None:
    engine = {"_target_": "fedrobust.runtime.engines.inline_engine", "threads": 3}
    assert compose.change_engine(engine, words) == expected
    assert engine["threads"] == 3


@pytest.mark.parametrize("word", ["seed=1", "engine.threads=1,2", "~engine.threads", "++seed=1"])
def test_nothing_but_the_engine_is_changed(word: str) -> None:
    with pytest.raises(
        ConfigError,
        match=r"cannot be changed here; only engine=\.\.\. and engine\.<key>=<value> can",
    ):
        compose.change_engine({"threads": 3}, [word])
