"""One process at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedrobust.errors import ConfigError
from fedrobust.utils.locking import LOCK, hold_lock, is_empty

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from fedrobust.utils.locking import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_refused_and_the_next_is_not(tmp_path: Path) -> None:
    with hold_lock(tmp_path) as held:
        assert held
        with (
            pytest.raises(ConfigError, match="another process is at work in this folder"),
            hold_lock(tmp_path),
        ):
            pytest.fail("both are in")
        assert (tmp_path / LOCK).exists()  # the one who was refused did not take it away
    assert list(tmp_path.iterdir()) == []
    with hold_lock(tmp_path) as held:
        assert held


def test_it_dies_with_its_process(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another process"), hold_lock(tmp_path):
            pytest.fail("both are in")
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    with hold_lock(tmp_path) as held:
        assert held


def test_a_lock_that_was_taken_away_in_between_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before its holder took it away, locked after: another process may have made the next
    one."""
    plain = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        (tmp_path / LOCK).unlink()
        plain(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(ConfigError, match="another process"), hold_lock(tmp_path):
        pytest.fail("let in with a lock that nobody else can see")


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOLCK, None), (errno.ENOSYS, None), (errno.EIO, "Input/output error")],
)
def test_a_file_system_without_locks_lets_in_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str | None
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    if words is None:
        with hold_lock(tmp_path) as held:
            assert not held
    else:
        with pytest.raises(OSError, match=words), hold_lock(tmp_path):
            pytest.fail("let in")


def test_a_lock_that_a_killed_process_left_behind_leaves_a_folder_empty(tmp_path: Path) -> None:
    assert is_empty(tmp_path)
    (tmp_path / LOCK).touch()
    assert is_empty(tmp_path)
    (tmp_path / "report.json").touch()
    assert not is_empty(tmp_path)
