"""Decoded images on disk: made once, then read as a memory map by every process.

An entry is a folder named by a hash of everything that decides its content. It is filled under
another name and renamed when complete, so a reader never sees half an entry, and of two processes
that fill the same one the first wins. It holds its own SHA-256, which every reader checks.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrobust.errors import ConfigError, DataError
from fedrobust.utils.cache_root import cache_root

Shape = tuple[int, int, int, int]
Fill = Callable[[NDArray[np.uint8]], Mapping[int, str]]
_IN_MEMORY = ContextVar("in memory", default=False)

FORMAT = 2  # of the entries' files: raise it when they change, it is part of the key
IMAGES, FACTS = "images.npy", "entry.json"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def folder() -> Path:
    """The folder of all entries: the environment variable FEDROBUST_CACHE, else
    ~/.cache/fedrobust."""
    return cache_root()


@contextmanager
def in_memory() -> Iterator[None]:
    """Within it nothing is read from the disk or written there: images are made anew."""
    token = _IN_MEMORY.set(True)
    try:
        yield
    finally:
        _IN_MEMORY.reset(token)


def images(content: object, shape: Shape, fill: Fill) -> tuple[Tensor, Mapping[int, str]]:
    """The images that `content` stands for, and the rows that could not be read.

    Args:
        content: plain values that json can write and that decide every pixel (hashes of the files,
            sizes, versions of the code).
        shape: (N, 3, H, W).
        fill: writes all rows into the array it is given and returns the unreadable ones, each with
            its reason; called only when there is no entry.

    Returns:
        The images (N, 3, H, W) uint8, a copy-on-write memory map: writing to it never reaches the
        file; and the unreadable rows with their reasons.

    Raises:
        ConfigError: the folder cannot be written to, or has no room for the images.
        DataError: the entry is not what was written.
    """
    if _IN_MEMORY.get():
        pixels = np.zeros(shape, dtype=np.uint8)
        reasons = fill(pixels)
        return torch.from_numpy(pixels), reasons
    text = json.dumps([FORMAT, content, list(shape)], sort_keys=True)
    entry = folder() / hashlib.sha256(text.encode()).hexdigest()[:32]
    if not entry.exists():
        _make(entry, shape, fill)
    try:
        return _read(entry, shape)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{entry}: damaged cache entry ({error}); delete this folder") from error


def _read(entry: Path, shape: Shape) -> tuple[Tensor, Mapping[int, str]]:
    facts = json.loads((entry / FACTS).read_text(encoding="utf-8"))
    reasons = facts["unreadable"]
    if _seal(entry / IMAGES, reasons) != facts["sha256"]:
        raise ValueError("its SHA-256 is not the one it was written with")
    array = np.load(entry / IMAGES, mmap_mode="c", allow_pickle=False)
    if array.dtype != np.uint8 or array.shape != shape:
        raise ValueError(f"it holds {array.dtype} {array.shape}")
    return torch.from_numpy(array), {int(row): str(reason) for row, reason in reasons.items()}


def _seal(path: Path, reasons: Mapping[str, str]) -> str:
    """The SHA-256 over the reasons and the file of the images."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(
            file, lambda: hashlib.sha256(json.dumps(reasons, sort_keys=True).encode())
        )
    return digest.hexdigest()


def _make(entry: Path, shape: Shape, fill: Fill) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=entry.parent))
    except OSError as error:
        raise ConfigError(
            f"FEDROBUST_CACHE={entry.parent}: cannot write there ({error.strerror}); "
            "name a writable folder"
        ) from error
    try:
        # a file with holes would end in a signal where the disk is full
        _check_room(entry.parent, math.prod(shape))
        array = np.lib.format.open_memmap(scratch / IMAGES, mode="w+", dtype=np.uint8, shape=shape)
        reasons = {str(row): reason for row, reason in fill(array).items()}
        array.flush()
        facts = {"unreadable": reasons, "sha256": _seal(scratch / IMAGES, reasons)}
        (scratch / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        os.rename(scratch, entry)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise _no_room(entry.parent, math.prod(shape)) from error
        if not entry.exists():  # else another process was faster: its entry is as good as ours
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_room(place: Path, needed: int) -> None:
    if needed > shutil.disk_usage(place).free:
        raise _no_room(place, needed)


def _no_room(place: Path, needed: int) -> ConfigError:
    return ConfigError(
        f"FEDROBUST_CACHE={place}: no room for {needed / 1e9:.1f} GB of decoded images; make room, "
        "name another folder, or choose a smaller data.size or data.max_images"
    )
