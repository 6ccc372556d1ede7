"""The twins' cache: a key for all that decides the weights and nothing else, and files that are
trusted only when whole."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from fedrobust.experiment import compose
from fedrobust.learning import model_files
from fedrobust.runtime.server import clean_twin
from fedrobust.state import Layout, State
from fedrobust.types import ClientRecord, Failure, RoundRecord
from fedrobust.utils import program
from tests.helpers import models

RECORD = RoundRecord(
    2,
    {"accuracy": 51.25, "auroc": None, "n": 7},
    (
        ClientRecord(0, 12, 0.5, {"loss": 1.5}, {"trust": 0.25}),
        ClientRecord(3, 9, 0.5, {"loss": 2.0}),
    ),
    (Failure(1, "gone", "Traceback\n"),),
    {"train": 1.5},
    {"distance": 2.0},
)


def name(
    *overrides: str, data: str = "d", device: str = "cpu", threads: tuple[int, int] = (2, 1)
) -> str:
    return clean_twin.twin_key(configuration(*overrides), data, device, threads)


@cache
def configuration(*overrides: str) -> dict[str, Any]:
    return compose.compose("experiment=smoke", "poisoned=0", *overrides)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Layout, State]:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path))
    layout = Layout.of(models.classifier())
    state = State(torch.rand(layout.num_parameters), torch.rand(layout.num_buffers))
    clean_twin.save_twin("twin", layout, state, [RECORD])
    return tmp_path / "twins" / "twin.safetensors", layout, state


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "rounds=2",
        "num_clients=4",
        "client.optimizer.lr=0.01",
        "client.epochs=2",
        "client=prox",
        "strategy=fedavg",
        "strategy.temperature=3",
        "partition=dirichlet",
        "model.dimension=64",
        "server.batchnorm=mean",
        "server.proxy_images=64",
        "server.root_per_class=5",
        "evaluation.validation_images=100",  # of the rounds' metrics
        "data.size=32",
    ],
)
def test_what_decides_the_twin_decides_the_key(override: str) -> None:
    assert name(override) != name()


def test_the_surroundings_decide_too() -> None:
    keys = {name(), name(data="e"), name(device="cuda"), name(threads=(1, 1)), name(threads=(2, 2))}
    assert len(keys) == 5


@pytest.mark.parametrize(
    "override",
    [
        "contamination=sign_flip",
        "contamination.rate=0.5",
        "contamination@noise=gaussian_noise",
        "corruption.std=0.2",
        "evaluation.bootstrap_samples=7",
        "evaluation.batch_size=64",
        "engine=ray",
        "tracker=tensorboard",
        "stop_when.seconds=60",
        "schedule.from_round=2",
        "evaluation.best_metric=f1",
        "server.checkpoint_every=0",
        "server.keep_checkpoints=5",
        "engine.threads=1",  # the actual threads count, not the requested ones
    ],
)
def test_what_does_not_touch_a_clean_run_does_not(override: str) -> None:
    assert name(override) == name()


def test_only_the_engine_s_workers_without_a_gpu_count() -> None:
    assert name("engine=ray", "engine.workers=2") == name()
    assert name("engine=ray", "engine.gpus_per_worker=0") != name()


def test_an_edited_program_has_other_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    before = name()
    assert len(program.program_digest()) == 64
    monkeypatch.setattr(clean_twin, "program_digest", lambda plugins: "edited")
    assert name() != before


def test_the_program_digest_covers_every_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("fedrobust", "strategies", "clients"):
        (tmp_path / package / "deep").mkdir(parents=True)
        (tmp_path / package / "deep" / "one.py").write_text("x = 1")
    monkeypatch.setattr(program.fedrobust, "__file__", str(tmp_path / "fedrobust" / "__init__.py"))
    digests = {program.program_digest.__wrapped__()}
    for package in ("fedrobust", "strategies", "clients"):
        (tmp_path / package / "deep" / "one.py").write_text("x = 2")
        digests.add(program.program_digest.__wrapped__())
    (tmp_path / "clients" / "deep" / "one.py").rename(tmp_path / "clients" / "deep" / "two.py")
    assert len(digests | {program.program_digest.__wrapped__()}) == 5


def test_a_twin_comes_back_with_its_records(saved: tuple[Path, Layout, State]) -> None:
    _, layout, state = saved
    loaded = clean_twin.load_twin("twin", layout)
    assert loaded is not None
    assert torch.equal(loaded[0].parameters, state.parameters)
    assert torch.equal(loaded[0].buffers, state.buffers)
    assert loaded[1] == [RECORD]


def test_an_unknown_twin_is_none(saved: tuple[Path, Layout, State]) -> None:
    assert clean_twin.load_twin("another", saved[1]) is None


@pytest.mark.parametrize(
    "notes",
    [
        None,
        {},
        {"rounds": "{"},
        {"rounds": "5"},
        {"rounds": "[1]"},
        {"rounds": "[{}]"},
        "cut",
        "empty",
    ],
)
def test_a_damaged_twin_counts_as_none_and_is_replaced(
    saved: tuple[Path, Layout, State], notes: object
) -> None:
    path, layout, state = saved
    if isinstance(notes, dict) or notes is None:
        model_files.save_state(path, layout, state, notes=notes)
    else:
        path.write_bytes(path.read_bytes()[:-5] if notes == "cut" else b"")
    assert clean_twin.load_twin("twin", layout) is None
    clean_twin.save_twin("twin", layout, state, [RECORD])
    assert clean_twin.load_twin("twin", layout) is not None


def test_another_model_s_twin_is_none(saved: tuple[Path, Layout, State]) -> None:
    assert (
        clean_twin.load_twin("twin", Layout.of(models.classifier(num_classes=4, head="linear")))
        is None
    )


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path))
    assert clean_twin.cache_folder() == tmp_path / "twins"
    for unset in (
        lambda: monkeypatch.delenv("FEDROBUST_CACHE"),
        lambda: monkeypatch.setenv("FEDROBUST_CACHE", ""),
    ):
        unset()
        assert clean_twin.cache_folder() == Path.home() / ".cache" / "fedrobust" / "twins"
