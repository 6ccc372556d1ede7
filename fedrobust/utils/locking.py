"""One process at a time in an output folder. The lock dies with its process, whatever kills it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrobust.errors import ConfigError

LOCK = ".lock"
UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some network file systems have no locks


@contextmanager
def hold_lock(folder: Path) -> Iterator[bool]:
    """Keep others out of an existing folder. Gives False where the file system has no locks, so
    that nobody is kept out.

    Raises ConfigError where another process is at work in the folder, OSError where it cannot be
    written to.
    """
    path = folder / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        held = _take(descriptor, path)
        try:
            yield held
        finally:
            path.unlink(missing_ok=True)  # while it is still held, and nobody else's: see _take
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path) -> bool:
    busy = ConfigError(
        f"{path.parent}: another process is at work in this folder; wait for it or stop it"
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise busy from error
    except OSError as error:
        if error.errno in UNKNOWN:
            return False
        raise
    # Whoever held it before may have taken the file away in between, and a third process may hold
    # its successor.
    if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
        raise busy
    return True
