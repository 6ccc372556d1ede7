"""One simulation in its folder."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fedrobust import load
from fedrobust.errors import ConfigError, DataError
from fedrobust.experiment import build, settings
from fedrobust.reporting.console import RunConsole
from fedrobust.reporting.records import Recorder, read_rounds
from fedrobust.runtime import simulation
from fedrobust.runtime.resume import read_request
from fedrobust.runtime.server import loop
from fedrobust.runtime.simulation import resume_job, run_job
from fedrobust.types import RoundRecord
from tests.helpers import federations, reports


def count_readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with each reading of the settings."""
    found: list[str] = []
    read = settings.read_settings

    def counting(config: Mapping[str, Any]) -> settings.Settings:
        found.append("read")
        return read(config)

    for module in (settings, build):
        monkeypatch.setattr(module, "read_settings", counting)
    return found


def test_settings_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = count_readings(monkeypatch)
    with pytest.raises(ConfigError, match="partition=remote: is for real sites"):
        run_job(federations.compose_settings("partition=remote"), tmp_path)
    assert readings == ["read"]


def test_an_engine_that_cannot_be_is_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[object] = []
    monkeypatch.setattr(build, "build_experiment", lambda *given: built.append(given))
    with pytest.raises(ConfigError, match=r"engine\.threads=0: must be"):
        run_job(federations.compose_settings("engine=inline", "engine.threads=0"), tmp_path)
    assert built == []


def test_a_new_folder_is_made_and_taken_away_again_if_nothing_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "new"
    with pytest.raises(ConfigError, match="rounds=0: must be"):
        run_job({**federations.compose_settings(), "rounds": 0}, folder)
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(ConfigError, match="rounds=0: must be"):
        run_job({**federations.compose_settings(), "rounds": 0}, folder)
    assert folder.is_dir()


class Unwritable(io.StringIO):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


def test_a_run_continues_when_its_screen_is_read_no_longer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = RunConsole(file=Unwritable(BrokenPipeError(32, "Broken pipe")))
    for _ in range(2):
        console.print("round 1 of 9")
    line = "standard output is read no longer; the run continues without it\n"
    assert capsys.readouterr().err == line


def test_a_screen_that_cannot_be_written_to_does_not_fail_a_finished_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = reports.typed(reports.report())
    full = Unwritable(OSError(28, "No space left on device"))
    simulation.show_result(Console(file=full), report, {}, tmp_path)
    said = capsys.readouterr().err
    assert said.startswith("the screen cannot be written to (")
    assert said.endswith(f"report: {tmp_path / 'report.html'}\n")


def test_a_resumed_run_is_in_its_tracker_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def stop(self: Recorder, run: str, stage: str, client: int, failed: bool) -> None:
        if len(self.rounds["run"]) == 2:
            raise KeyboardInterrupt

    words = ("rounds=2", "evaluation.twin=false", "tracker=tensorboard")
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "client_done", stop)
        with pytest.raises(KeyboardInterrupt):
            run_job(federations.compose_settings(*words), tmp_path, pictures=False)
    report = resume_job(read_request([f"resume={tmp_path}"]), pictures=False)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    accuracy = found.Scalars("validation/accuracy_percent")
    assert [one.step for one in accuracy] == [0, 1, 2]
    last = read_rounds(tmp_path)[-1].metrics["accuracy"]
    assert accuracy[-1].value == pytest.approx(last)
    [drop] = found.Scalars("drop/corruption/combined_percent")
    assert drop.value == pytest.approx(report.drops.corruption.combined)


RECORD = loop._record
VALUES = (80.0, 50.0, 50.0, math.nan, 40.0, 90.0, 95.0)


def measured(number: int, *given: Any) -> RoundRecord:
    """A record whose balanced accuracy is that of `VALUES`."""
    found = RECORD(number, *given)
    return replace(found, metrics={**found.metrics, "balanced_accuracy": VALUES[number]})


@pytest.mark.slow
def test_the_best_model_and_an_early_end_survive_interruptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in round 3, and again in the twin after the end of the run."""
    words = (
        "rounds=6",
        "evaluation.best_metric=balanced_accuracy",
        "evaluation.bootstrap_samples=0",
        "stop_when.metric=balanced_accuracy",
        "stop_when.patience=3",
    )
    config = federations.compose_settings(*words)
    monkeypatch.setattr(loop, "_record", measured)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    moment = ["run", 3]

    def stop(self: Recorder, run: str, stage: str, client: int, failed: bool) -> None:
        if self._folder == torn and [run, len(self.rounds[run])] == moment:
            raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "client_done", stop)
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "one"))
    report = run_job(config, whole, pictures=False)
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "two"))
    with pytest.raises(KeyboardInterrupt):
        run_job(config, torn, pictures=False)
    moment[:] = ["clean twin", 2]
    with pytest.raises(KeyboardInterrupt):
        resume_job(read_request([f"resume={torn}"]), pictures=False)
    moment[:] = []
    again = resume_job(read_request([f"resume={torn}"]), pictures=False)

    for name in ("model.safetensors", "best.safetensors"):
        assert (torn / name).read_bytes() == (whole / name).read_bytes()
    timeless = {"timing": {}}
    assert again.model_copy(update=timeless) == report.model_copy(update=timeless)
    assert report.rounds == 4
    assert report.stopping is not None
    assert report.stopping.planned_rounds == 6
    assert report.best is not None
    assert (report.best.round, report.best.value) == (1, 50.0)
    for folder in (whole, torn):
        for run in ("run", "clean twin"):
            assert [one.number for one in read_rounds(folder, run)] == [0, 1, 2, 3, 4]
        assert [one.stopped for one in read_rounds(folder)] == 4 * [""] + [report.stopping.reason]
        assert report.stopping.reason in (folder / "report.html").read_text(encoding="utf-8")
    # the best model is that of a run of one round
    alone = tmp_path / "alone"
    run_job({**config, "rounds": 1}, alone, pictures=False)
    best, first = (
        load(place).model(best=best).state_dict() for place, best in ((whole, True), (alone, False))
    )
    assert best.keys() == first.keys()
    assert all(torch.equal(best[name], first[name]) for name in best)
    last = load(whole).model().state_dict()
    assert any(not torch.equal(best[name], last[name]) for name in best)
    (whole / "best.safetensors").unlink()
    with pytest.raises(DataError, match=r"best\.safetensors: no such file; only runs with eval"):
        load(whole).model(best=True)
