"""Following a run: what is shown, how often the server is asked, and how it ends; with a made-up
command flwr."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedrobust.errors import ConfigError, RunError
from fedrobust.federation import operator as operating
from fedrobust.federation.operator import COMPLETED, Operator
from fedrobust.federation.processes import Processes

FLWR = """#!/bin/sh
echo "$@" >> asked
if [ "$1" = log ]; then echo "round 1 of the run"; sleep 1; touch over; exit 0; fi
if [ -e over ]; then cat end; exit; fi
echo 'some notice'
echo '{"success": true, "runs": [{"status": "running", "status-details": ""}]}'
"""


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    monkeypatch.setattr(operating, "POLL_SECONDS", 0.05)
    program = tmp_path / "bin" / "flwr"
    program.parent.mkdir()
    program.write_text(FLWR)
    program.chmod(0o755)
    (tmp_path / "home").mkdir()
    with Processes(tmp_path / "logs", {}) as processes:
        processes.environment["PATH"] = f"{program.parent}:{processes.environment['PATH']}"
        yield Operator(processes, tmp_path / "home")
    assert processes.alive() == {}


def ends(operator: Operator, status: str, details: str = "") -> None:
    said = {"success": True, "runs": [{"status": status, "status-details": details}]}
    (operator.home / "end").write_text(json.dumps(said))


def test_a_completed_run_is_shown_and_seldom_asked_for(
    operator: Operator, capfd: pytest.CaptureFixture[str]
) -> None:
    ends(operator, COMPLETED)
    operator.follow("7", 60)
    assert "round 1 of the run" in capfd.readouterr().out
    asked = (operator.home / "asked").read_text().splitlines()
    assert asked.count("log 7 federation --stream") == 1
    # before its log, at its beginning, when it has ended
    assert sum(line.startswith("list") for line in asked) <= 3


def test_a_quiet_one_keeps_what_the_run_says_in_a_log(
    operator: Operator, capfd: pytest.CaptureFixture[str]
) -> None:
    ends(operator, COMPLETED)
    operator.follow("7", 60, quiet=True)
    assert capfd.readouterr().out == ""
    assert "round 1 of the run" in operator.processes.log("log-7").read_text()


def test_a_run_that_fails_is_no_success(operator: Operator) -> None:
    ends(operator, "finished:failed", "site b cannot take part")
    with pytest.raises(RunError, match=r"^run 7 finished:failed: site b cannot take part$"):
        operator.follow("7", 60)


def test_a_run_that_nobody_knows_ends_in_one_line(operator: Operator) -> None:
    (operator.home / "over").touch()
    (operator.home / "end").write_text(
        json.dumps(
            {
                "success": False,
                "error-message": "Using federation\n\n[code: 16] Run ID not found.\n",
            }
        )
    )
    with pytest.raises(RunError, match=r"^flwr: Using federation \[code: 16\] Run ID not found\.$"):
        operator.follow("7", 60)
    assert "log" not in (operator.home / "asked").read_text()


def test_patience_has_an_end(operator: Operator) -> None:
    with pytest.raises(RunError, match=r"^run 7 is still running after 0\.2 s$"):
        operator.wait("7", 0.2)


def test_a_home_that_is_not_there(operator: Operator) -> None:
    with pytest.raises(ConfigError, match=r"^home=/nowhere: no such folder"):
        Operator(operator.processes, Path("/nowhere")).state("7")
