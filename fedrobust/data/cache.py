"""Decoded images on disk: made once, then read as a memory map by every process.

An entry is a folder named by a hash of everything that decides its content. It is filled under
another name and renamed when complete, so a reader never sees half an entry, and of two processes
that fill the same one the first wins.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrobust.errors import ConfigError, DataError

Fill = Callable[[NDArray[np.uint8]], Sequence[int]]
_IN_MEMORY = ContextVar("in memory", default=False)


def folder() -> Path:
    """The folder of all entries: the environment variable FEDROBUST_CACHE, else
    ~/.cache/fedrobust."""
    named = os.environ.get("FEDROBUST_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "fedrobust"


@contextmanager
def in_memory() -> Iterator[None]:
    """Within it nothing is read from the disk or written there: images are made anew."""
    token = _IN_MEMORY.set(True)
    try:
        yield
    finally:
        _IN_MEMORY.reset(token)


def images(
    content: object, shape: tuple[int, int, int, int], fill: Fill
) -> tuple[Tensor, tuple[int, ...]]:
    """The (N, 3, H, W) uint8 images that `content` stands for, and the rows that could not be read.

    content: plain values that json can write and that decide every pixel (fingerprints, sizes,
    versions of the code). fill: writes all rows into the array it is given and returns the
    unreadable ones; called only when there is no entry. The tensor is a copy-on-write memory map:
    writing to it never reaches the file.
    """
    if _IN_MEMORY.get():
        pixels = np.zeros(shape, dtype=np.uint8)
        rows = tuple(int(row) for row in fill(pixels))
        return torch.from_numpy(pixels), rows
    text = json.dumps([content, list(shape)], sort_keys=True)
    entry = folder() / hashlib.sha256(text.encode()).hexdigest()[:32]
    if not entry.exists():
        _make(entry, shape, fill)
    try:
        array = np.load(entry / "images.npy", mmap_mode="c", allow_pickle=False)
        unreadable = json.loads((entry / "unreadable.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{entry}: damaged cache entry ({error}); delete this folder") from error
    return torch.from_numpy(array), tuple(unreadable)


def _make(entry: Path, shape: tuple[int, int, int, int], fill: Fill) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=entry.parent))
    except OSError as error:
        raise ConfigError(
            f"FEDROBUST_CACHE={entry.parent}: cannot write there ({error.strerror}); "
            "name a writable folder"
        ) from error
    try:
        array = np.lib.format.open_memmap(
            scratch / "images.npy", mode="w+", dtype=np.uint8, shape=shape
        )
        unreadable = [int(row) for row in fill(array)]
        array.flush()
        (scratch / "unreadable.json").write_text(json.dumps(unreadable))
        os.rename(scratch, entry)
    except OSError:
        if not entry.exists():  # else another process was faster: its entry is as good as ours
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
