"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedrobust.utils import files

ROOT = Path(__file__).parents[2]


def test_pieces_become_one_file_in_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    assert files.write(path, [b"ab", memoryview(b"c"), b""]) == path
    assert path.read_bytes() == b"abc"
    assert [one.name for one in path.parent.iterdir()] == ["file"]


def test_a_disk_that_fills_up_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = files.write(tmp_path / "file", [b"old"])

    def pieces() -> Iterator[bytes]:
        yield b"x" * 100_000
        # it really lies there half-written
        assert [one.stat().st_size > 0 for one in files.leftovers(tmp_path)] == [True]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left") as error:
        files.write(path, pieces())
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files there")
def test_the_system_s_own_refusal_half_way(tmp_path: Path) -> None:
    """The kernel itself stops the write after 64 kB: any user may set a limit of the process."""
    code = f"""
import resource
from pathlib import Path
from fedrobust.utils import files as atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    atomic.write(Path({str(tmp_path)!r}) / "file", [b"x" * 1000] * 100)
except OSError as error:
    print(error.strerror, Path(error.filename).name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "File too large file\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_must_not_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so the refusal is made up."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "open", refused)
    for call in (
        lambda: files.write(tmp_path / "file", [b"x"]),
        lambda: files.append(tmp_path / "file", "x"),
    ):
        with pytest.raises(OSError, match="Read-only file system") as error:
            call()
        assert error.value.filename == str(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_was_writing_is_found(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from fedrobust.utils import files as atomic
def pieces():
    yield b"x" * 100_000
    os.kill(os.getpid(), signal.SIGKILL)
atomic.write(Path({str(tmp_path)!r}) / "file", pieces())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [one.name.startswith(".file.") for one in tmp_path.iterdir()] == [True]
    assert files.leftovers(tmp_path) == list(tmp_path.iterdir())


def test_append_adds_text(tmp_path: Path) -> None:
    for text in ("a\n", "ä\n"):
        files.append(tmp_path / "file", text)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "a\nä\n"
