"""One process at a time in an output folder. The lock ends with its process, however that ends."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fedrobust.errors import ConfigError

LOCK = ".lock"
UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some network file systems have no locks


@contextmanager
def hold_lock(folder: Path) -> Iterator[bool]:
    """Keep others out of an existing folder. Gives False where the file system has no locks, so
    that no process is kept out.

    Raises ConfigError where another process is at work in the folder, OSError where it cannot be
    written to.
    """
    path = folder / LOCK
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ConfigError(
            f"{folder}: another process is at work in this folder; wait for it or stop it"
        ) from None
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise
    try:
        yield lock.is_locked
    finally:
        # while it is still held, so that it belongs to no other process; Windows keeps a file that
        # is open
        with suppress(PermissionError):
            path.unlink(missing_ok=True)
        lock.release()


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but, perhaps, the lock of a process that was killed."""
    return all(path.name == LOCK for path in folder.iterdir())
