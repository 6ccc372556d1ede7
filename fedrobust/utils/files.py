"""Files that are complete or absent, whatever interrupts the write: a kill, a full disk, a
power cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

# reasons why a folder cannot be written to
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
SUFFIX = ".tmp"  # of what is being written; a process that is killed leaves such a file behind


def write(path: Path, pieces: Iterable[bytes | memoryview]) -> Path:
    """Write the pieces one after the other as the file `path`, for which folders are made; an old
    file is replaced at the end.

    The bytes are on the disk (fsync, of the folder too) when this returns. Raises OSError, always
    with a file name, after taking away what was written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fill(partial, pieces)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        _name(error, path)
        raise
    return path


def append(path: Path, text: str) -> None:
    """Add UTF-8 text at the end of a file; what was added only in part is taken away again. Raises
    OSError with a file name."""
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(text.encode("utf-8"))
    except OSError as error:
        if path.exists():
            os.truncate(path, before)
        _name(error, path)
        raise


def leftovers(folder: Path) -> list[Path]:
    """Files in a folder that were being written when their process was killed."""
    return sorted(folder.glob(f".*{SUFFIX}"))


def _fill(partial: Path, pieces: Iterable[bytes | memoryview]) -> None:
    with partial.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """So that the new name survives a power cut as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(error: OSError, path: Path) -> None:
    """A write to an open file does not know the file's name."""
    if error.filename is None:
        error.filename = str(path)


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text so that a reader sees the old file or the whole new one, even after a
    crash."""
    return write(path, [text.encode("utf-8")])
