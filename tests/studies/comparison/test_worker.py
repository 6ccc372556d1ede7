"""Real cells in the process of a pool: their results are those of a process of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrobust.studies.comparison import worker
from fedrobust.studies.comparison.executor import run_cells
from fedrobust.studies.comparison.grid import Cell, cells, read_grid
from fedrobust.studies.comparison.isolation import NewProcess
from fedrobust.studies.comparison.pool import LOG, Machine
from fedrobust.studies.comparison.worker import COST, Worker
from tests.helpers.federations import SMALL_RUN
from tests.studies.comparison.test_executor import Memory

GRID = (
    *("experiment=smoke", "poisoned=[1]", "seeds=[0]", "evaluation.bootstrap_samples=50"),
    *(word for word in SMALL_RUN if not word.startswith("data.")),
    "data.num_images=400",
    "strategies=[{random: 'strategy=median client=mutual_learning'},etf_dml]",
    "contaminations=[backdoor_patch]",
)


def go(wanted: list[Cell], folder: Path) -> None:
    kin = {one.folder: one.folder for one in wanted}
    assert run_cells(wanted, folder, kin, Machine(1, 1), Memory()) == {}


def result(folder: Path) -> dict[str, Any]:
    """All that a run has computed, without its times."""
    report = json.loads((folder / "report.json").read_text())
    del report["timing"]
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for one in rounds:
        del one["seconds"]
    with np.load(folder / "predictions.npz") as file:
        predictions = {name: file[name].tobytes() for name in file.files}
    model = (folder / "model.safetensors").read_bytes()
    clients = (folder / "clients.csv").read_bytes()
    return {
        "report": report, "rounds": rounds, "predictions": predictions, "model": model,
        "clients": clients,
    }  # fmt: skip


@pytest.mark.slow
def test_a_second_cell_has_the_bits_of_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = cells(read_grid(GRID))
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "one cache"))
    go(wanted, tmp_path / "one")
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "other cache"))
    go(wanted[1:], tmp_path / "other")
    one, other = (tmp_path / name / wanted[1].folder for name in ("one", "other"))
    assert result(one) == result(other)
    # each cell's output lies with it, and its words name it
    for cell in wanted:
        place = tmp_path / "one" / cell.folder
        assert f"report: {place}/report.html" in (place / LOG).read_text()
        manifest = json.loads((place / "manifest.json").read_text())
        assert manifest["command_line"] == ["worker.py", str(place)]
        assert (place / "report.html").exists()
        assert "data:image" not in (place / "report.html").read_text()
        assert json.loads((place / COST).read_text())["peak_memory"] > 1e8


class Runs(Worker):
    """A worker whose cells do nothing, and that remembers its answers."""

    def __init__(self, folder: Path) -> None:
        self.said: list[Mapping[str, bool]] = []
        super().__init__(folder, -1)

    def answer(self, values: Mapping[str, bool]) -> None:
        self.said.append(values)

    def serve_cell(self, engine: str = "inline_engine", path: Sequence[str] = ()) -> bool:
        config = {"engine": {"_target_": f"fedrobust.runtime.engines.{engine}"}}
        return self.serve({"cell": "", "config": config, "pictures": False, "path": path})


@pytest.fixture
def runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Runs:
    """The fixture capfd gives the standard output back."""
    monkeypatch.setattr(worker, "run", lambda *_, **__: print("a line of the run"))
    monkeypatch.setattr(NewProcess, "_collect", lambda self: None)
    return Runs(tmp_path)


def test_modules_are_found_where_the_starter_finds_them(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", list(before))
    runs.serve_cell(path=["/a/folder/of/plugins", before[0]])
    assert sys.path == [*before, "/a/folder/of/plugins"]


@pytest.mark.parametrize(
    ("key", "value", "number"),
    [("MOST_CELLS", 3, 3), ("MOST_GROWTH", -1e12, 1), ("MOST_CELLS", 1, 1)],
)
def test_a_process_is_replaced_after_many_cells_or_much_memory(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, key: str, value: float, number: int
) -> None:
    monkeypatch.setattr(worker, key, value)
    served = [runs.serve_cell() for _ in range(number)]
    assert served == [False] * (number - 1) + [True]
    assert runs.said == [{"begun": True}] * number


def test_an_engine_with_processes_of_its_own_has_the_process_for_itself(runs: Runs) -> None:
    assert runs.serve_cell("ray_engine")
    assert not runs.serve_cell()
