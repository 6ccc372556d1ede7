"""Old names of settings work in every source of a configuration, each with one line that names
the new one."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator

import pytest
import yaml

from fedrobust import simulate
from fedrobust.experiment import build, compose, factories, old_names, settings
from fedrobust.experiment.old_targets import OLD_TARGETS
from fedrobust.federation.server_run import compose_for_sites
from fedrobust.studies.ablation.plan import read_plan
from fedrobust.studies.comparison.grid import cells, read_grid
from tests.helpers import federations
from tests.helpers.old_names import aged


@pytest.fixture(autouse=True)
def nothing_said_yet() -> Iterator[None]:
    old_names.tell.cache_clear()
    yield
    old_names.tell.cache_clear()


def said(*pairs: tuple[str, str]) -> str:
    return "".join(
        f"note: {old} is now {new}; the old name works for one more release\n" for old, new in pairs
    )


WORDS = [
    (["server.proxy=3"], ["server.proxy_images=3"], ("server.proxy", "server.proxy_images")),
    (["++server.proxy=3"], ["++server.proxy_images=3"], ("server.proxy", "server.proxy_images")),
    (["~server.buffers"], ["~server.batchnorm"], ("server.buffers", "server.batchnorm")),
    (
        ["+client.plateau.factor=0.5"],
        ["+client.lr_plateau.factor=0.5"],
        ("client.plateau.factor", "client.lr_plateau.factor"),
    ),
    (["client=cohort"], ["client=mutual_learning"], ("client=cohort", "client=mutual_learning")),
    (
        ["client=sgd,mutual"],
        ["client=sgd,global_distillation"],
        ("client=sgd,mutual", "client=sgd,global_distillation"),
    ),
    (
        ["client=mutual_learning", "client.reading=ground_truth"],
        ["client=mutual_learning", "client.distillation_loss=true_class"],
        ("client.reading=ground_truth", "client.distillation_loss=true_class"),
    ),
    (
        ["client=global_distillation", "client.term=inner_product,kl"],
        ["client=global_distillation", "client.distillation_loss=true_class,kl"],
        ("client.term=inner_product,kl", "client.distillation_loss=true_class,kl"),
    ),
    (
        ["strategy.reading='full'"],
        ["strategy.distillation_loss='kl'"],
        ("strategy.reading='full'", "strategy.distillation_loss='kl'"),
    ),
    (
        ["strategy=geometric_median", "strategy.nu=1"],
        ["strategy=geometric_median", "strategy.smoothing=1"],
        ("strategy.nu", "strategy.smoothing"),
    ),
    (
        ["strategy.aggregation.nu=1"],
        ["strategy.aggregation.smoothing=1"],
        ("strategy.aggregation.nu", "strategy.aggregation.smoothing"),
    ),
]


@pytest.mark.parametrize(("old", "new", "pair"), WORDS)
def test_words(
    old: list[str], new: list[str], pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert old_names.rename_words(old) == new
    assert old_names.rename_words(old) == new  # is said once
    assert capsys.readouterr().err == said(pair)


@pytest.mark.parametrize(
    "word",
    [
        "server.proxy_images=3",
        "privacy.clip=1.0",
        "strategy.clip=true",
        "client=sgd",
        "-m",
        "--cfg",
        "data.path=server.proxy=3",
        "=3",
        "proxy=3",
        "strategy.cohort_trim=0.1",
    ],
)
def test_other_words_stay(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert old_names.rename_words([word]) == [word]
    assert capsys.readouterr().err == ""


def test_a_rule_of_somebody_else_keeps_its_settings() -> None:
    """Only our own keys that had the old name lose it."""
    assert old_names.rename_words(["strategy=mine", "strategy.nu=1"])[1] == "strategy.nu=1"
    mine = {"strategy": {"_target_": "fedrobust.strategies.mine.mine", "nu": 1}}
    assert old_names.rename_config(mine) == mine


@pytest.mark.slow
def test_every_renamed_key_is_one_of_today() -> None:
    for one in old_names.KEYS:
        words = [f"{one.group}={one.choices[-1]}"] if one.choices else []
        today = compose.compose(*words)[one.group]
        assert one.old not in today
        for part in one.new.split("."):
            assert part in today
            today = today[part]
    for group, names in old_names.CHOICES.items():
        for new in names.values():
            assert compose.compose(f"{group}={new}")


def test_a_word_and_a_whole_group_in_the_composition() -> None:
    old = compose.compose("client=cohort", "client.reading=ground_truth", "client.clip=5")
    new = ("client.distillation_loss=true_class", "client.max_grad_norm=5")
    assert old == compose.compose("client=mutual_learning", *new)
    given = compose.compose("++server={proxy: 3}", "strategy=geometric_median", "++strategy.nu=1")
    assert (given["server"]["proxy_images"], given["strategy"]["smoothing"]) == (3, 1)


FLAT = [
    "eps_255=[2,8]",
    "threat_models=[oblivious,bpda_eot]",
    "eot_samples=3",
    "eot_draws=3",
    "adversarial_images=7",
    "adversarial_clients=false",
    "fusion=true",
]


@pytest.mark.parametrize("setting", FLAT)
def test_flat_keys_of_evasion_attacks(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On a command line and in a file; with values that are lists."""
    name, _, text = setting.partition("=")
    today = f"evasion_evaluation.{name.replace('eot_draws', 'eot_samples')}"
    assert old_names.rename_words([f"evaluation.{setting}"]) == [f"evaluation.{today}={text}"]
    value, kept = yaml.safe_load(text), {"eps_255": [9]}
    written = {"evaluation": {"twin": True, "evasion_evaluation": kept, name: value}}
    inner = {**kept, today.partition(".")[2]: value}
    found = old_names.rename_config(written)
    assert found == {"evaluation": {"twin": True, "evasion_evaluation": inner}}
    assert kept == {"eps_255": [9]}  # the given values are not changed
    assert capsys.readouterr().err == said((f"evaluation.{name}", f"evaluation.{today}"))


def test_flat_keys_of_evasion_attacks_are_composed() -> None:
    flat = [one for one in FLAT if "draws" not in one]
    new = compose.compose(*(f"evaluation.evasion_evaluation.{one}" for one in flat))
    assert compose.compose(*(f"evaluation.{one}" for one in flat)) == new
    assert new["evaluation"]["evasion_evaluation"]["fusion"] is True


def test_a_word_wins_over_an_old_name_in_a_file() -> None:
    new = {"eps_255": [2], "fusion": False}
    written = {"evaluation": {"eps_255": [1], "fusion": True, "evasion_evaluation": new}}
    words = ["evaluation.evasion_evaluation.eps_255=[2]"]
    assert old_names.rename_config(written, words) == {
        "evaluation": {"evasion_evaluation": {"eps_255": [2], "fusion": True}}
    }


def test_simulate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["server.proxy=77", "client=mutual", "--cfg", "job", "--package", "server"]
    monkeypatch.setattr(sys, "argv", ["simulate", *words])
    simulate.main()
    out, err = capsys.readouterr()
    assert "proxy_images: 77\n" in out
    assert err == said(
        ("server.proxy", "server.proxy_images"), ("client=mutual", "client=global_distillation")
    )


def test_compare_and_its_variants(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["strategies=[{a: 'strategy=geometric_median strategy.nu=1'}]", "poisoned=0"]
    (one, *_) = cells(read_grid([*words, "server.buffers=mean"]))
    assert one.config["strategy"]["smoothing"] == 1
    assert one.config["server"]["batchnorm"] == "mean"
    assert capsys.readouterr().err == said(
        ("server.buffers", "server.batchnorm"), ("strategy.nu", "strategy.smoothing")
    )


def test_ablation_and_its_variants() -> None:
    plan = read_plan(
        ["models=[{a: 'client=cohort client.reading=full'}]", "poisonings=[]", "scenarios=[]"]
    )
    (one, *_) = cells(plan.grid)
    assert one.config["client"]["_target_"].endswith(".mutual_learning")
    assert one.config["client"]["distillation_loss"] == "kl"


def test_the_overrides_of_a_flower_run() -> None:
    config = compose_for_sites("client=mutual client.term=inner_product evaluation.draws=7", ())
    assert config["client"]["distillation_loss"] == "true_class"
    assert config["evaluation"]["bootstrap_samples"] == 7


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("client=mutual_learning", "client.distillation_loss=true_class"),
        ("client=global_distillation",),
        ("strategy=geometric_median", "client.lr_plateau={patience: 1}"),
        ("strategy=foolsgold", "strategy.kappa=2", "partition=remote"),
    ],
)
def test_a_configuration_of_an_older_run(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    today = compose.compose(*words)
    old = aged(today)
    assert "proxy" in old["server"]
    assert old_names.rename_config(old) == today
    assert settings.from_json(settings.to_json(old)) == today
    assert "proxy" in old["server"]  # the given one is not changed
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == len(set(notes)) > 10
    assert all(line.startswith("note: ") and "one more release" in line for line in notes)


def test_old_names_give_the_very_same_experiment() -> None:
    today = federations.compose_settings("client=mutual_learning")
    one, other = build.build_experiment(today), build.from_text(settings.to_json(aged(today)))
    assert one.config == other.config
    assert [part.tolist() for part in one.parts] == [part.tolist() for part in other.parts]


def test_nested_rules_too(capsys: pytest.CaptureFixture[str]) -> None:
    inner = {"_target_": "strategies.geometric_median.geometric_median", "nu": 0.5}
    outer = {"_target_": "strategies.etf_dml.etf_dml", "aggregation": inner, "fallback": False}
    found = old_names.rename_config({"strategy": outer})["strategy"]
    assert found["aggregation"] == {
        "_target_": "fedrobust.strategies.geometric_median.geometric_median",
        "smoothing": 0.5,
    }
    assert found["revert_if_worse"] is False
    assert factories.build_group({"strategy": found}, "strategy").name == "etf_dml"
    assert "strategy._target_=strategies.etf_dml.etf_dml is now fed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("group", "choice", "room", "old"),
    [
        ("purifier", "jpeg", "defences.purification.filters", "jpeg"),
        ("preaggregation", "clipping", "strategies.preaggregation.clipping", "clipping"),
    ],
)
def test_factories_of_two_rooms_that_had_one_name(
    group: str, choice: str, room: str, old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    today = compose.compose(f"{group}={choice}")[group]
    target = f"fedrobust.{room}.{old}"
    found = old_names.rename_config({group: {**today, "_target_": target}})[group]
    assert found == today
    assert today["_target_"] != target
    assert capsys.readouterr().err == said((f"{group}._target_={target}", today["_target_"]))
    assert factories.build_group({group: found}, group).name == choice


def test_no_old_target_is_lost() -> None:
    text = json.dumps(OLD_TARGETS, sort_keys=True)
    assert len(OLD_TARGETS) == 122
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "71d0792fccd2d8af"
