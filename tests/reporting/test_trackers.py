"""Trackers as observers of a run, read back with their own readers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fedrobust.errors import ConfigError
from fedrobust.experiment.factories import build_group
from fedrobust.reporting.trackers import base
from fedrobust.reporting.trackers.base import TrackedRun, Tracker, TrackerRun
from fedrobust.reporting.trackers.observer import TrackerObserver, read_entries
from fedrobust.reporting.trackers.values import flat_settings, result_values, round_values
from fedrobust.types import TWIN, ClientRecord, Failure, RoundRecord
from tests.helpers.reports import report, typed

REPORT = typed(report())
SETTINGS = {"strategy._target_": "a.b", "rounds": 2, "data.path": "null"}


def record(number: int, accuracy: float | None = 50.0) -> RoundRecord:
    metrics = {"accuracy": accuracy, "auroc": None, "n": 40}
    return RoundRecord(number, metrics, (ClientRecord(0, 9, 1.0, {}),), (), {"train": 1.5})


class Memory:
    """A tracker in memory; fails from its call number `fails` on."""

    def __init__(self, fails: float = math.inf) -> None:
        self.identity, self.fails, self.calls = "seven", fails, 0
        self.rounds: list[tuple[str, int]] = []
        self.result: Mapping[str, float] = {}
        self.ends: list[bool] = []
        self.opened: list[TrackedRun] = []

    def tracker(self) -> Tracker:
        def open_run(tracked: TrackedRun) -> TrackerRun:
            self._count()
            self.opened.append(tracked)
            return self

        return Tracker("memory", open_run)

    def log_values(self, run: str, number: int, values: Mapping[str, float]) -> None:
        self._count()
        self.rounds.append((run, number))

    def log_result(self, values: Mapping[str, float]) -> None:
        self._count()
        self.result = values

    def close(self, finished: bool) -> None:
        self._count()
        self.ends.append(finished)

    def _count(self) -> None:
        self.calls += 1
        if self.calls > self.fails:
            raise OSError("no answer\nfrom anybody")


def observed(
    memory: Memory, folder: Path, said: list[str], *, resumed: bool = False
) -> TrackerObserver:
    return TrackerObserver(
        memory.tracker(), TrackedRun(folder, "a run", SETTINGS), said.append, resumed
    )


def test_rounds_have_names_with_units_and_nothing_undefined() -> None:
    failures = Failure(1, "no reply"), Failure(2, "twice", counts=False)
    extras = {"epsilon": 2.0, "threshold": math.inf, "kept": 3}
    whole = RoundRecord(3, {"accuracy": 50.0, "auroc": None, "n": 40}, (), failures, {}, extras)
    assert round_values("run", whole) == {
        "validation/accuracy_percent": 50.0,
        "validation/images": 40.0,
        "clients/replies": 0.0,
        "clients/failures": 1.0,
        "rule/kept": 3.0,
        "privacy/epsilon": 2.0,
    }
    assert round_values(TWIN, record(1))["twin/seconds/train"] == 1.5
    assert all(name.startswith("twin/") for name in round_values(TWIN, record(1)))


def test_the_result_has_every_evaluation_and_drop() -> None:
    found = result_values(REPORT)
    assert found["test/clean/accuracy_percent"] == REPORT.evaluations["clean"].accuracy
    assert found["drop/poisoning/combined_percent"] == REPORT.drops.present["poisoning"].combined
    assert {name.split("/")[1] for name in found if name.startswith("drop/")} == set(
        REPORT.drops.present
    )
    assert all(math.isfinite(value) for value in found.values())


def test_settings_are_flat() -> None:
    config = {"client": {"optimizer": {"lr": 0.1}, "loss": None}, "poisoned": [0, 4], "empty": {}}
    assert flat_settings(config) == {
        "client.optimizer.lr": 0.1,
        "client.loss": "null",
        "poisoned": "[0, 4]",
        "empty": "{}",
    }


def test_a_resumed_run_gives_nothing_twice_and_what_was_missed(tmp_path: Path) -> None:
    memory, said = Memory(), list[str]()
    with observed(memory, tmp_path, said) as first:
        for number in range(3):
            first.round_finished("run", record(number))
    # killed after round 2, taken up from the checkpoint of round 1; round 3 ends the run at first
    with observed(memory, tmp_path, said, resumed=True) as second:
        second.rounds_restored("run", [record(0), record(1)])
        second.round_finished("run", record(2))
        second.round_finished("run", RoundRecord(3, {}, failures=(Failure(0, "lost"),)))
        second.round_finished("run", record(3))
        second.round_finished(TWIN, record(0))
        second.finish(REPORT)
    assert memory.rounds == [("run", 0), ("run", 1), ("run", 2), ("run", 3), (TWIN, 0)]
    assert [one.identity for one in memory.opened] == ["", "seven"]
    assert memory.ends == [False, True]
    assert memory.result == result_values(REPORT)
    assert said == []
    # another process whose predecessor's tracker had failed: the restored rounds are handed over
    (tmp_path / "tracker.json").write_text('{"identity": "seven", "rounds": {"run": 0}}')
    late = Memory()
    with observed(late, tmp_path, said, resumed=True) as third:
        third.rounds_restored("run", [record(0), record(1)])
    assert late.rounds == [("run", 1)]


@pytest.mark.parametrize("content", ["", "[]", '{"identity": 1, "rounds": {}}', '{"rounds": 3}'])
def test_damaged_entries_count_as_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "tracker.json").write_text(content)
    assert read_entries(tmp_path).rounds == {}
    assert read_entries(tmp_path).identity == ""


def test_a_tracker_that_fails_is_left_alone_and_named_once(tmp_path: Path) -> None:
    memory, said = Memory(fails=2), list[str]()
    with observed(memory, tmp_path, said) as tracked:
        for number in range(4):
            tracked.round_finished("run", record(number))
        tracked.finish(REPORT)
    assert memory.rounds == [("run", 0)]
    assert said == [
        "tracker=memory: failed (OSError: no answer); the run goes on without it, its own files "
        "hold everything"
    ]
    assert json.loads((tmp_path / "tracker.json").read_text())["rounds"] == {"run": 0}


def test_a_tracker_that_cannot_be_opened_refuses_a_new_run_and_no_resumed_one(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    with pytest.raises(ConfigError, match=r"^tracker=memory: cannot be opened \(OSError: no an"):
        observed(Memory(fails=0), tmp_path, said).__enter__()
    with observed(Memory(fails=0), tmp_path, said, resumed=True) as tracked:
        tracked.round_finished("run", record(0))
    assert len(said) == 1


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_named_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "find_spec", lambda module: None)
    settings = {"_target_": f"fedrobust.reporting.trackers.{name}.{name}"}
    with pytest.raises(ConfigError, match=rf"^tracker={name}: .*'fedrobust\[{name}\]'$"):
        build_group({"tracker": settings}, "tracker")


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
@pytest.mark.parametrize("address", ["host:5000", "https://me:secret@host/x", "file:///x", ""])
def test_an_address_is_one_and_holds_no_password(name: str, address: str) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    target = f"fedrobust.reporting.trackers.{name}.{name}"
    with pytest.raises(ConfigError, match=r"^tracker\.address: must be http") as error:
        build_group({"tracker": {"_target_": target, "address": address}}, "tracker")
    assert "secret" not in str(error.value)
    build_group({"tracker": {"_target_": target, "address": "https://host:5000/x"}}, "tracker")


def follow(name: str, folder: Path, **settings: Any) -> None:
    """Two processes of one run, with a twin, in a tracker."""
    target = f"fedrobust.reporting.trackers.{name}.{name}"
    tracker = build_group({"tracker": {"_target_": target, **settings}}, "tracker")
    said: list[str] = []
    for resumed in (False, True):
        run = TrackedRun(folder, "a run, seed 0", SETTINGS)
        with TrackerObserver(tracker, run, said.append, resumed) as tracked:
            if resumed:
                tracked.rounds_restored("run", [record(0)])
            else:
                tracked.round_finished("run", record(0))
            tracked.round_finished("run", record(1, 60.0))
            if resumed:
                tracked.round_finished(TWIN, record(0, 70.0))
                tracked.finish(REPORT)
    assert said == []


def test_tensorboard_reads_the_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    follow("tensorboard", tmp_path)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    accuracy = found.Scalars("validation/accuracy_percent")
    assert [(one.step, one.value) for one in accuracy] == [(0, 50.0), (1, 60.0)]
    assert [one.value for one in found.Scalars("twin/validation/accuracy_percent")] == [70.0]
    expected = result_values(REPORT)["drop/poisoning/combined_percent"]
    [drop] = found.Scalars("drop/poisoning/combined_percent")
    assert drop.value == pytest.approx(expected)
    [table] = found.Tensors("settings")
    assert b"| `strategy._target_` | `a.b` |" in table.tensor_proto.string_val[0]
    assert found.PluginTagToContent("hparams")  # once: the second process adds none


def test_tensorboard_gives_each_run_of_a_shared_folder_its_own(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for number in range(2):
        follow("tensorboard", tmp_path / f"run{number}", path=str(tmp_path / "all"))
    assert {one.name: len(list(one.iterdir())) for one in (tmp_path / "all").iterdir()} == {
        "a_run_seed_0": 2,
        "a_run_seed_0-1": 2,
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy's users
def test_mlflow_reads_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    monkeypatch.chdir(tmp_path)
    follow("mlflow", tmp_path / "run", run_name="mine")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fedrobust")
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert run.data.params == {key: str(value) for key, value in SETTINGS.items()}
    history = client.get_metric_history(run.info.run_id, "validation/accuracy_percent")
    assert [(one.step, one.value) for one in history] == [(0, 50.0), (1, 60.0)]
    assert run.data.metrics["twin/validation/accuracy_percent"] == 70.0
    assert run.data.metrics.items() >= result_values(REPORT).items()
    assert [one.name for one in tmp_path.iterdir()] == ["run"]  # nothing beside the run's folder


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format, 32 KiB blocks after 7 bytes of head."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if place % 32768 > 32768 - 7:  # a block's rest
            place += 32768 - place % 32768
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


@pytest.mark.slow
def test_wandb_offline_has_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    follow("wandb", tmp_path / "run")
    # as at the end of a process: finish() alone does not wait until the service has closed the file
    library.teardown()
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len({path.name for path in files}) == 1  # named by the run's identity
    records = [one for path in files for one in wandb_records(path)]
    assert {one.run.display_name for one in records if one.HasField("run")} == {"a run, seed 0"}
    items = [
        {item.nested_key[0]: json.loads(item.value_json) for item in one.history.item}
        for one in records
        if one.HasField("history")
    ]
    own = [one for one in items if "round" in one]
    assert [(one["round"], one["validation/accuracy_percent"]) for one in own] == [(0, 50), (1, 60)]
    [twin] = [one for one in items if "twin/round" in one]
    assert twin["twin/validation/accuracy_percent"] == 70
    assert [one["_step"] for one in items] == [0, 1, 2]
    said = b"".join(path.read_bytes() for path in files)
    assert b"drop/poisoning/combined_percent" in said
    assert b"strategy._target_" in said
    assert [one.name for one in tmp_path.iterdir()] == ["run"]
