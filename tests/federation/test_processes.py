"""No started process is left, however the starting program ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedrobust.federation.processes import MARK, Processes

SECONDS = 120.0  # a deadline for a machine that is busy with other things
STARTER = """
import sys, time
from pathlib import Path
from fedrobust.federation.processes import Processes
with Processes(Path(sys.argv[1]), {}) as processes:
    processes.start("child", [sys.executable, "-c", sys.argv[2]], Path(sys.argv[1]))
    print(processes.pid("child"), flush=True)
    time.sleep(600)
"""
# starts a child of its own in a session of its own, and ignores SIGTERM
CHILD = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""


def with_mark(mark: bytes) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if not zombie and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return found


def wait_until(number: int, mark: bytes) -> list[int]:
    deadline = time.monotonic() + SECONDS
    while len(found := with_mark(mark)) != number and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def mark_of(process: int) -> bytes:
    """A program that has just been started has no environment for a moment."""
    deadline = time.monotonic() + SECONDS
    while True:
        for one in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
            if one.startswith(MARK.encode()):
                return one
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_of_a_killed_program_nothing_is_left(tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path), CHILD], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    child = int(starter.stdout.readline())
    mark = mark_of(child)
    try:
        assert len(wait_until(2, mark)) == 2
    finally:
        starter.kill()
        starter.communicate()
    assert wait_until(0, mark) == []


def test_leaving_ends_everything_and_the_guard(tmp_path: Path) -> None:
    with Processes(tmp_path, {}) as processes:
        processes.start("child", [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path)
        guard, pid = processes.process_guard, processes.pid("child")
        mark_of(pid)
        assert list(processes.alive()) == [pid]  # the guard is none of them
    assert processes.alive() == {}
    assert guard is not None
    assert guard.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
