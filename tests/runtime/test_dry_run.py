"""What a run would do, without doing it."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from fedrobust.data import TRAIN
from fedrobust.errors import ConfigError
from fedrobust.experiment.compose import compose
from fedrobust.runtime import dry_run
from fedrobust.runtime.dry_run import RunPlan, Speed, format_bytes, plan_lines, plan_run
from fedrobust.runtime.server import clean_twin

SMALL = ("experiment=smoke", "data.num_images=300", "engine.threads=1")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean_twin, "cache_folder", lambda: tmp_path / "twins")


@lru_cache
def base(*words: str) -> str:
    chosen = () if "engine=ray" in words else ("engine=inline",)
    return json.dumps(compose(*SMALL, *chosen, *words))


def planned(*words: str, **changed: Any) -> RunPlan:
    """words: for Hydra, which is slow; changed: settings, those of a group as group__key."""
    config = json.loads(base(*words))
    for key, value in changed.items():
        group, _, name = key.rpartition("__")
        (config[group] if group else config)[name] = value
    return plan_run(config)


def test_the_plan_says_who_trains_what() -> None:
    plan = planned("strategy=fedavg", poisoned=[1], noisy=[0], rounds=4)
    text = "\n".join(plan_lines(plan))
    assert "hospitals: 3, of " in text
    assert "poisoned: 1 (contamination=label_flip)" in text
    assert "noisy: 0 (noise=clinical_noise)" in text
    assert "rounds: 4, of 3 hospitals each" in text
    assert "clean twin: trained as well" in text
    assert "engine: inline, one process, 1 thread each" in text
    layout = plan.server.layout
    assert f"model: resnet18, {layout.num_parameters:,} trained parameters" in text
    size = 4 * (layout.num_parameters + layout.num_buffers)
    assert f"messages: {format_bytes(size)} each way, {format_bytes(12 * size)} in all" in text
    assert f"updates of a round: {format_bytes(12 * layout.num_parameters)}" in text
    assert "time: about " in text
    assert "estimated from one training step" in text
    assert plan.memory is None or plan.memory > 12 * layout.num_parameters


def test_the_time_grows_with_what_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "measure_speed", lambda *_: Speed(1.0, 0.0))
    plan = planned("strategy=fedavg", poisoned=0)
    images = plan.seconds
    assert images == len(plan.server.experiment.rows(0, TRAIN)) + sum(
        len(plan.server.experiment.rows(client, TRAIN)) for client in (1, 2)
    )
    changes: list[tuple[dict[str, Any], int]] = [
        ({"poisoned": 0, "rounds": 3}, 3),
        ({"poisoned": 0, "client__epochs": 2}, 2),
        ({"poisoned": 1}, 2),  # the clean twin
        ({"poisoned": 1, "evaluation__twin": False}, 1),
    ]
    for changed, factor in changes:
        assert planned("strategy=fedavg", **changed).seconds == pytest.approx(factor * images)
    steps = {"poisoned": 0, "client__steps": 5, "client__batch_size": 8}
    assert planned("strategy=fedavg", **steps).seconds == 3 * 5 * 8


def test_a_rule_that_distils_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "measure_speed", lambda *_: Speed(1.0, 0.0))
    ensemble, mutual, none = (
        planned(poisoned=0, strategy__distillation=one).seconds
        for one in ("ensemble", "mutual", "none")
    )
    # an epoch on 32 proxy images, for one student or for three
    assert ensemble - none == 32
    assert mutual - none == 3 * 32


def test_evaluations_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "measure_speed", lambda *_: Speed(0.0, 1.0))
    one, three = (
        planned("strategy=fedavg", poisoned=0, evaluation__twin=False, rounds=rounds)
        for rounds in (1, 3)
    )
    images = len(one.server.experiment.validation_rows())
    assert three.seconds - one.seconds == 2 * images


def test_a_twin_in_the_cache_is_not_counted(tmp_path: Path) -> None:
    assert planned("strategy=fedavg", poisoned=1).trains_twin
    (tmp_path / "twins").mkdir()
    written: list[str] = []
    key = clean_twin.twin_key

    def remembered(*facts: Any) -> str:
        written.append(key(*facts))
        return written[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(clean_twin, "twin_key", remembered)
        planned("strategy=fedavg", poisoned=1)
    (tmp_path / "twins" / f"{written[0]}.safetensors").touch()
    plan = planned("strategy=fedavg", poisoned=1)
    assert (plan.twin, plan.trains_twin) == ("taken from the cache", False)
    assert planned("strategy=fedavg", poisoned=0).twin == "this run itself"


@pytest.mark.slow
def test_settings_of_ray_are_planned_without_starting_it() -> None:
    plan = planned("engine=ray", engine__workers=1, engine__threads=2)
    assert (plan.engine.name, plan.engine.workers, plan.engine.threads) == ("ray", 1, 2)
    assert plan.engine.text == "ray, 1 worker, 2 threads each"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["strategy=krum"], "then needs at least 9 clients a round"),
        (["partition=remote"], "is for real sites"),
    ],
)
def test_what_a_run_refuses_is_refused(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        planned(*words)


def test_too_little_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "total_memory", lambda: 10**9)
    dry_run.check_memory(10**9)
    dry_run.check_memory(None)
    with pytest.raises(ConfigError, match=r"^memory: about 2\.0 GB would be needed, this machine"):
        dry_run.check_memory(2 * 10**9)


def test_features_of_a_frozen_backbone_are_not_computed() -> None:
    plan = planned("strategy=fedavg", model__freeze="backbone", server__batchnorm="mean")
    assert plan.speed.train > 0


@pytest.mark.parametrize(
    ("number", "text"), [(12, "12 B"), (1500, "1.5 kB"), (94_300_000, "94.3 MB"), (2e13, "20.0 TB")]
)
def test_sizes_for_people(number: float, text: str) -> None:
    assert format_bytes(number) == text


def test_rounds_that_are_done_cost_nothing() -> None:
    plan = planned("strategy=fedavg", poisoned=0, rounds=4)
    images = Speed(train=1.0, evaluate=0.0)
    whole, left = (
        dry_run.run_seconds(plan.server, plan.engine, images, done=done) for done in (0, 3)
    )
    assert left == pytest.approx(whole / 4)


def test_groups_of_a_certificate_train_too() -> None:
    def images(unit: Speed, **changed: Any) -> float:
        plan = planned("strategy=fedavg", poisoned=0, rounds=4, **changed)
        return dry_run.run_seconds(plan.server, plan.engine, unit)

    trained, evaluated = Speed(train=1.0, evaluate=0.0), Speed(train=0.0, evaluate=1.0)
    plain = images(trained)
    # three groups of one hospital: the three hospitals once more; four drawn groups of two: eight
    # hospitals in place of three
    assert images(trained, certificate__groups=3) == pytest.approx(2 * plain)
    drawn = {"certificate__groups": 4, "certificate__group_size": 2}
    assert images(trained, **drawn) == pytest.approx(plain * (1 + 8 / 3))
    plan = planned("strategy=fedavg", poisoned=0, rounds=4)
    tested = len(plan.server.experiment.test_rows())
    more = images(evaluated, certificate__groups=3) - images(evaluated)
    assert more == pytest.approx(3 * tested)
