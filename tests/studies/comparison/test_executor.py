"""Processes that do next to nothing in the place of cells: order, failures, the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedrobust.experiment.compose import compose
from fedrobust.studies.comparison import executor, pool
from fedrobust.studies.comparison.executor import (
    is_cell_finished,
    rename_older_cells,
    run_cells,
)
from fedrobust.studies.comparison.grid import Cell, config_digest
from fedrobust.studies.comparison.pool import LOG, Machine
from tests.helpers.old_names import aged
from tests.helpers.processes import PATIENCE_SECONDS, wait_until

# Reads orders, does what "do" of their configuration says, notes when each began and ended.
FAKE = """
import json, os, sys, time
from pathlib import Path
cells, answers = Path(sys.argv[1]), os.dup(1)
def note(what):
    with (cells / "log").open("a") as file:
        threads, gpus = os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES")
        file.write(f"{config['name']} {what} {threads} {gpus} {os.getpid()}\\n")
while line := os.read(0, 65536):
    order = json.loads(line)
    config, folder = order["config"], cells / order["cell"]
    os.write(answers, b'{"begun": true}\\n')
    file = os.open(folder / "run.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(file, 1)
    os.close(file)
    note("begins")
    match config["do"]:
        case "fail":
            print("error: an old line")
            print("error: it went wrong")
            sys.exit(1)
        case "crash":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), 9)
        case "wait":
            os.read(0, 1)  # until the end of the input
            note("stopped")
            sys.exit(130)
        case "hang":
            time.sleep(600)
        case "leave":
            sys.exit(0)
    time.sleep(config.get("seconds", 0))
    if config["do"] != "nothing":
        (folder / "manifest.json").write_text(json.dumps({"config": config}))
        (folder / "report.json").write_text("{}")
    note("ends")
    os.write(answers, json.dumps({"last": config["do"] in ("last", "stay")}).encode() + b"\\n")
    if config["do"] == "die":
        os.kill(os.getpid(), 9)
    if config["do"] == "last":
        break
    if config["do"] == "stay":
        time.sleep(600)
"""
COMMAND = (sys.executable, "-c", FAKE)


def cell(name: str, do: str = "work", **settings: float) -> Cell:
    return Cell(name, "none", 0, 0, {"name": name, "do": do, **settings})


class Memory:
    """A watcher that remembers, and that may be interrupted after so many ticks."""

    def __init__(self, ticks: int | None = None) -> None:
        self.events: list[tuple[str, str, str | None]] = []
        self._ticks = ticks

    def started(self, one: Cell) -> None:
        self.events.append(("started", one.strategy, None))

    def ended(self, one: Cell, reason: str | None, seconds: float) -> None:
        assert seconds > 0
        self.events.append(("ended", one.strategy, reason))

    def tick(self) -> None:
        if self._ticks is not None:
            self._ticks -= 1
            if self._ticks < 0:
                raise KeyboardInterrupt

    def stopping(self, number: int) -> None:
        self.events.append(("stopping", str(number), None))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "POLL_SECONDS", 0.02)


def go(
    folder: Path,
    cells: list[Cell],
    parallel: int,
    watch: Memory | None = None,
    families: dict[str, str] | None = None,
    **more,
):
    kin = {one.folder: (families or {}).get(one.strategy, one.strategy) for one in cells}
    return run_cells(
        cells, folder, kin, Machine(parallel, 3, **more), watch or Memory(), command=COMMAND
    )


def log(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "log").read_text().splitlines()]


def test_all_cells_run_with_their_threads(tmp_path: Path) -> None:
    cells, watch = [cell(name) for name in "abc"], Memory()
    assert go(tmp_path, cells, 2, watch) == {}
    assert all(is_cell_finished(tmp_path / one.folder, one) for one in cells)
    assert {line[2] for line in log(tmp_path)} == {"3"}
    assert sorted(event[:2] for event in watch.events if event[0] == "ended") == [
        ("ended", name) for name in "abc"
    ]


def test_never_more_than_asked_for(tmp_path: Path) -> None:
    go(tmp_path, [cell(name, seconds=0.1) for name in "abcdef"], 2)
    now = most = 0
    for line in log(tmp_path):
        now += {"begins": 1, "ends": -1}[line[1]]
        most = max(most, now)
    assert most == 2


def test_the_first_of_a_family_goes_alone(tmp_path: Path) -> None:
    families = {"a1": "a", "a2": "a", "a3": "a", "b1": "b"}
    watch = Memory()
    go(tmp_path, [cell(name) for name in families], 3, watch, families)
    events = [event[:2] for event in watch.events]
    assert events[:2] == [("started", "a1"), ("started", "b1")]
    made = events.index(("ended", "a1"))  # the others wait for the twin of a1
    assert made < events.index(("started", "a2"))
    # afterwards side by side
    assert events.index(("started", "a3")) < events.index(("ended", "a2"))


def test_gpus_are_dealt_out(tmp_path: Path) -> None:
    go(tmp_path, [cell(name, seconds=0.2) for name in "ab"], 2, gpus=("5", "7"))
    assert {line[3] for line in log(tmp_path)} == {"5", "7"}


def test_a_failing_cell_leaves_the_others_alone_and_says_why(tmp_path: Path) -> None:
    cells, watch = (
        [cell("a", "fail"), cell("b", "kill"), cell("c", "nothing"), cell("d"), cell("e", "crash")],
        Memory(),
    )
    failed = go(tmp_path, cells, 2, watch)
    a, b, c, d, e = (one.folder for one in cells)
    assert failed[a] == "it went wrong"
    assert failed[b].startswith("killed by SIGKILL, as happens when memory runs out")
    assert failed[c].startswith("ended without a report; see ")
    assert failed[e].startswith("ended with code 3; see ")
    assert d not in failed
    assert ("ended", "a", "it went wrong") in watch.events
    # the reason is that of this attempt, not of an earlier one in the same log
    again = cell("a", "fail")
    assert (tmp_path / a / LOG).read_text().count("it went wrong") == 1
    assert go(tmp_path, [again], 1) == {a: "it went wrong"}
    assert (tmp_path / a / LOG).read_text().count("it went wrong") == 2


def pids(folder: Path) -> dict[str, str]:
    """The process of each cell, by the cell's name."""
    return {line[0]: line[4] for line in log(folder) if line[1] == "begins"}


def test_a_process_runs_many_cells(tmp_path: Path) -> None:
    assert go(tmp_path, [cell(name) for name in "abcd"], 1) == {}
    assert len(set(pids(tmp_path).values())) == 1
    assert all(len((tmp_path / cell(name).folder / LOG).read_text()) == 0 for name in "abcd")


def test_a_process_that_a_cell_has_ended_is_replaced(tmp_path: Path) -> None:
    cells = [cell("a"), cell("b", "kill"), cell("c"), cell("d", "fail"), cell("e"), cell("f")]
    assert set(go(tmp_path, cells, 1)) == {cells[1].folder, cells[3].folder}
    found = pids(tmp_path)
    assert [found[one] == found[two] for one, two in ("ab", "bc", "cd", "de", "ef")] == [
        *(True, False, True, False, True),
    ]


def test_a_process_that_has_had_enough_is_replaced(tmp_path: Path) -> None:
    assert go(tmp_path, [cell("a"), cell("b", "last"), cell("c")], 1) == {}
    found = pids(tmp_path)
    assert found["a"] == found["b"] != found["c"]


def test_a_process_that_is_killed_between_two_cells_costs_none(tmp_path: Path) -> None:
    assert go(tmp_path, [cell("a", "die"), cell("b", "die"), cell("c")], 1) == {}
    assert len(set(pids(tmp_path).values())) == 3


def test_a_process_that_says_that_it_ends_and_does_not_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.1)
    assert go(tmp_path, [cell("a", "stay"), cell("b")], 1) == {}
    assert len(set(pids(tmp_path).values())) == 2


def test_an_end_without_an_answer_is_a_failure(tmp_path: Path) -> None:
    one, other = cell("a", "leave"), cell("b")
    failed = go(tmp_path, [one, other], 1)
    assert failed[one.folder].startswith("ended without a report; see ")
    assert set(failed) == {one.folder}


def test_no_process_is_left_behind(tmp_path: Path) -> None:
    go(tmp_path, [cell("a"), cell("b"), cell("c", "fail")], 2)
    for pid in pids(tmp_path).values():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_an_interruption_stops_all_processes(tmp_path: Path) -> None:
    watch = Memory(ticks=40)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, [cell("a"), cell("b", "wait"), cell("c", "wait"), cell("d")], 2, watch)
    assert ("stopping", "2", None) in watch.events
    assert {tuple(line[:2]) for line in log(tmp_path)} >= {
        ("a", "ends"),
        ("b", "stopped"),
        ("c", "stopped"),
    }
    assert not any(line[0] == "d" for line in log(tmp_path))
    assert go(tmp_path, [cell("d")], 1) == {}  # and it can go on


def test_what_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.3)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, [cell("a", "hang")], 1, Memory(ticks=20))
    assert time.monotonic() - started < PATIENCE_SECONDS  # it would hang for ten minutes


def test_a_cell_that_hangs_is_ended_alone(tmp_path: Path) -> None:
    cells, watch = [cell("a"), cell("b", "hang"), cell("c"), cell("d")], Memory()
    failed = go(tmp_path, cells, 1, watch, cell_seconds=0.5)
    assert set(failed) == {cells[1].folder}
    reason = failed[cells[1].folder]
    assert reason.startswith("cell_seconds=0.5: it was stopped after so long; see ")
    assert str(tmp_path / cells[1].folder / LOG) in reason
    assert ("ended", "b", reason) in watch.events
    found = pids(tmp_path)
    assert found["a"] == found["b"] != found["c"] == found["d"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(found["b"]), 0)


def test_what_counts_as_finished(tmp_path: Path) -> None:
    one = cell("a")
    assert not is_cell_finished(tmp_path, one)
    (tmp_path / "manifest.json").write_text(json.dumps({"config": dict(one.config)}))
    assert not is_cell_finished(tmp_path, one)
    (tmp_path / "report.json").write_text("{}")
    assert is_cell_finished(tmp_path, one)
    (tmp_path / "checkpoints").mkdir()  # it was killed between its report and its page
    assert not is_cell_finished(tmp_path, one)
    (tmp_path / "report.html").write_text("")
    assert is_cell_finished(tmp_path, one)
    other = Cell("a", "none", 0, 0, {**one.config, "rounds": 6})
    assert config_digest(other.config) != config_digest(one.config)
    assert not is_cell_finished(tmp_path, other)
    (tmp_path / "manifest.json").write_text("{")
    assert not is_cell_finished(tmp_path, one)


def test_cells_of_an_older_version_are_those_of_today(tmp_path: Path) -> None:
    one = Cell("a", "none", 0, 0, compose("evaluation.evasion_evaluation.fusion=true"))
    older, other = Cell("a", "none", 0, 0, aged(one.config)), cell("a")
    for made in (older, other):
        (tmp_path / made.folder).mkdir()
        text = json.dumps({"config": made.config})
        (tmp_path / made.folder / "manifest.json").write_text(text)
        (tmp_path / made.folder / "report.json").write_text("{}")
    assert older.folder != one.folder
    rename_older_cells(tmp_path, [one, cell("b")])
    assert is_cell_finished(tmp_path / one.folder, one)
    assert {path.name for path in tmp_path.iterdir()} == {one.folder, other.folder}


def test_the_environment_of_the_parent_is_left_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    go(tmp_path, [cell("a")], 1, gpus=("0",))
    assert dict(os.environ) == before


@pytest.mark.slow
def test_cells_end_with_whoever_started_them(tmp_path: Path) -> None:
    """Killed beyond any clean-up, the parent still leaves no processes behind."""
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.studies.comparison import test_executor as t\n"
        "t.go(Path(sys.argv[1]), [t.cell('a', 'wait')], 1)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[3]
    )
    wait_until((tmp_path / "log").exists)
    parent.kill()
    parent.wait()
    wait_until(lambda: "stopped" in (tmp_path / "log").read_text())
    assert [line[:2] for line in log(tmp_path)] == [["a", "begins"], ["a", "stopped"]]
