"""run.log: what was shown of a run, with its time."""

from __future__ import annotations

import io
import logging
import re
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from fedrobust.errors import RunError
from fedrobust.reporting.console import Display, make_console, print_last_line, print_line
from fedrobust.reporting.run_log import keep_log, start_logs
from fedrobust.runtime.client.site_errors import LOG
from fedrobust.types import Failure, RoundRecord
from fedrobust.utils.cli import run_command
from fedrobust.utils.notices import LOGGER, hold_lines, log, note

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO|WARNING|ERROR) .+")


def logged(folder: Path) -> list[str]:
    lines = (folder / "run.log").read_text().splitlines()
    assert all(LINE.fullmatch(line) for line in lines), lines
    return [line.split(" ", 1)[1] for line in lines]


def test_lines_wait_until_the_run_writes(tmp_path: Path) -> None:
    with keep_log("test") as kept:
        print_line(Console(file=io.StringIO()), "data: two notes")
        assert list(tmp_path.iterdir()) == []
        kept.start(tmp_path)
        print_line(Console(file=io.StringIO()), "and more")
    first, *others = logged(tmp_path)
    assert first.startswith("INFO test: fedrobust ")
    assert "torch" in first
    assert others[:2] == ["INFO data: two notes", "INFO and more"]
    assert others[2].startswith("INFO ended after ")
    assert not LOGGER.handlers


def test_what_is_refused_leaves_no_log(tmp_path: Path) -> None:
    with pytest.raises(RunError), keep_log("test"):
        raise RunError("no")
    assert list(tmp_path.iterdir()) == []


def test_notes_before_the_log_are_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with hold_lines():
        note("note: lr is now learning_rate")
        assert capsys.readouterr().err == "note: lr is now learning_rate\n"
        with keep_log("test"):
            start_logs(tmp_path)
    assert logged(tmp_path)[1] == "WARNING note: lr is now learning_rate"


def test_lines_of_one_command_are_in_no_other_commands_log(tmp_path: Path) -> None:
    def refuse() -> None:
        log(logging.INFO, "of a refused command")
        raise RunError("no")

    def keep() -> None:
        with keep_log("test"):
            start_logs(tmp_path)

    log(logging.INFO, "of no command")
    assert run_command(refuse) == 1
    assert run_command(keep) == 0
    first, last = logged(tmp_path)
    assert first.startswith("INFO test: ")
    assert last.startswith("INFO ended after ")


def test_a_log_takes_nothing_from_the_screen() -> None:
    with keep_log("test"):
        site: logging.Logger | None = LOG
        while site is not None and site.parent is not None:  # pytest's handlers are the root's
            assert not site.handlers
            site = site.parent


def test_python_warnings_are_logged_and_shown(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown: list[str] = []
        warnings.showwarning = lambda message, *_, **__: shown.append(str(message))
        with keep_log("test") as kept:
            kept.start(tmp_path)
            warnings.warn("disk is full", UserWarning, stacklevel=1)
    assert shown == ["disk is full"]
    assert "WARNING UserWarning: disk is full" in logged(tmp_path)


def fail(folder: Path, error: BaseException) -> None:
    """A run whose first round fails."""
    display = Display(Console(file=io.StringIO()))
    with keep_log("test") as kept:
        kept.start(folder)
        display.run_started("run", 3, 2)
        display.round_finished("run", RoundRecord(1, {}, failures=(Failure(1, "no reply"),)))
        raise error


def test_failures_are_warnings_and_the_end_of_a_failed_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        fail(tmp_path, RunError("round 1: too few clients"))
    lines = logged(tmp_path)
    assert "WARNING run: round 1: client 1 failed: no reply" in lines
    assert lines[-1] == "ERROR round 1: too few clients"


def test_an_interruption_is_logged(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path, KeyboardInterrupt())
    assert logged(tmp_path)[-1] == "WARNING interrupted"


def test_the_home_folder_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    with keep_log("test") as kept:
        kept.start(tmp_path)
        log(logging.INFO, "weights from /home/somebody/secret/model.safetensors")
    text = (tmp_path / "run.log").read_text()
    assert "weights from ~/secret/model.safetensors" in text
    assert "somebody" not in text


def test_a_resumed_run_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for _ in range(2):
        with keep_log("test") as kept:
            kept.start(tmp_path)
    assert [line.split(":")[0] for line in logged(tmp_path)].count("INFO test") == 2


def test_a_log_that_cannot_be_written_ends_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with keep_log("test") as kept:
        kept.start(tmp_path)
        (tmp_path / "run.log").unlink()
        (tmp_path / "run.log").mkdir()
        log(logging.INFO, "one")
        log(logging.INFO, "two")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the run continues without its log" in said


def test_a_quiet_console_shows_the_last_line_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = make_console(quiet=True)
    assert not console.is_interactive
    with keep_log("test") as kept, Display(console) as display:
        kept.start(tmp_path)
        display.stage("run", "train")
        print_last_line(console, "report: here")
    assert capsys.readouterr().out == "report: here\n"
    assert {"INFO run: train", "INFO report: here"} <= set(logged(tmp_path))


def test_what_a_terminal_shows_as_bars_is_logged_in_lines(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with keep_log("test") as kept, Display(console) as display:
        kept.start(tmp_path)
        display.stage("run", "aggregate")
    assert "INFO run: aggregate" in logged(tmp_path)
