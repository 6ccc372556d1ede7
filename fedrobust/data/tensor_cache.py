"""Tensors on disk that take long to compute and never more room than a bound, as the features of a
frozen backbone.

An entry is one sealed safetensors file, named by a hash of everything that decides its content.
One process makes it while others wait; every reader checks its seal, and a damaged entry is made
again. When a new entry would exceed the bound, those read longest ago are removed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock
from torch import Tensor

from fedrobust.data import cache
from fedrobust.errors import ConfigError, DataError
from fedrobust.utils import files, tensor_files
from fedrobust.utils.locking import UNKNOWN

Tensors = Mapping[str, Tensor]

FORMAT = 1  # of the entries: raise it when they change, it is part of the key
BOUND = "FEDROBUST_FEATURES_GB"
USUAL_BOUND = 10.0  # GB of all entries together
SUFFIX = ".safetensors"


def folder() -> Path:
    """The folder of the entries, below that of decoded images (see `cache.folder`)."""
    return cache.folder() / "features"


def bound() -> int:
    """The most bytes of all entries together: the environment variable FEDROBUST_FEATURES_GB, else
    10 GB. Raises ConfigError where that is no number of at least 0."""
    text = os.environ.get(BOUND, "").strip()
    try:
        gigabytes = float(text) if text else USUAL_BOUND
        if not 0 <= gigabytes < 1e9:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{BOUND}={text}: must be a number of GB, 0 or more; leave it out for {USUAL_BOUND:g}"
        ) from None
    return int(gigabytes * 1e9)


def entry_path(content: object) -> Path:
    """The file of an entry. content: plain values that json can write and that decide every
    value."""
    text = json.dumps([FORMAT, content], sort_keys=True)
    return folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}{SUFFIX}"


def tensors(content: object, make: Callable[[], Tensors]) -> Tensors:
    """The tensors that `content` stands for.

    Args:
        content: see `entry_path`.
        make: computes them; called only when there is no usable entry.

    Returns:
        The tensors by name, those of an entry as private memory maps: writing to them never
        reaches the file. Where the entry cannot be kept (no room within the bound or on the disk,
        a folder that cannot be written to) they are in memory alone, with a warning.

    Raises:
        ConfigError: the bound is no number.
    """
    path, most = entry_path(content), bound()
    if (found := _read(path)) is not None:
        return found
    with _only_maker(path) as alone:
        # another process may have made it while this one waited
        if alone and (found := _read(path)) is not None:
            return found
        made = make()
        return made if most == 0 else _keep(path, made, most)


def _read(path: Path) -> Tensors | None:
    """None where there is no entry, or a damaged one."""
    if not path.exists():
        return None
    try:
        found = tensor_files.map_sealed(path)
    except DataError:
        return None
    with suppress(OSError):
        os.utime(path)  # the entries read longest ago are removed first
    return found


@contextmanager
def _only_maker(path: Path) -> Iterator[bool]:
    """One process at a time makes an entry; the lock ends with its process. Gives False where the
    folder or its file system has no locks."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if error.errno not in (*UNKNOWN, *files.NO_ROOM, errno.ENOENT, errno.ENOTDIR):
            raise
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _keep(path: Path, made: Tensors, most: int) -> Tensors:
    needed = sum(one.numel() * one.element_size() for one in made.values())
    try:
        if needed > most:
            raise OSError(errno.EDQUOT, f"{needed / 1e9:.2g} GB exceed {BOUND}={most / 1e9:g}")
        _make_room(path, most - needed)
        files.write(path, tensor_files.pieces(made, seal=True))
    except OSError as error:
        warnings.warn(
            f"{path.parent}: features are kept in memory only ({error.strerror}) and computed "
            "again by the next process",
            stacklevel=2,
        )
        return made
    found = _read(path)
    return made if found is None else found


def _make_room(path: Path, left: int) -> None:
    """Remove entries, those read longest ago first, until all others fill at most `left` bytes."""
    entries = []
    for one in path.parent.glob(f"*{SUFFIX}"):
        with suppress(OSError):
            if one != path:
                entries.append((one.stat().st_mtime, one.stat().st_size, one))
    total = sum(size for _, size, _ in entries)
    for _, size, one in sorted(entries):
        if total <= left:
            return
        with suppress(OSError):  # Windows keeps a file that is open
            one.unlink()
            total -= size
