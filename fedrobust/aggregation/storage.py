"""Large matrices in files: as memory maps for indexed access, but filled and read row by row
through the file itself.

Touching the pages of a map one by one costs more than training a small client: 115 ms for a fresh
row of 45 MB, 10 ms through the file.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import final
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from fedrobust.errors import ConfigError

BUDGET = 2 << 30  # bytes of matrices that stay in RAM


@final
class _Map(mmap.mmap):
    """A map that keeps its file open."""

    file = -1

    def __del__(self) -> None:
        if self.file >= 0:
            os.close(self.file)


# By the address of their first byte: a tensor's storage keeps its map, and nothing else does.
_MAPS: WeakValueDictionary[int, _Map] = WeakValueDictionary()


def allocate(
    rows: int, columns: int, budget_bytes: int = BUDGET, folder: str | None = None
) -> Tensor:
    """An uninitialised (rows, columns) float32 matrix on the CPU: in RAM up to `budget_bytes`, else
    a memory map.

    The mapped file lies in `folder` (None: the system's temporary folder, which on some machines is
    itself in RAM), has no name, and is gone with the tensor or the process, however that ends. Its
    disk space is reserved at once. Use `fill` and `fetch` for large parts of the matrix. Raises
    ConfigError where the disk lacks the space.
    """
    size = 4 * rows * columns
    if size <= budget_bytes:
        return torch.empty(rows, columns)
    place = folder or tempfile.gettempdir()
    try:
        free = shutil.disk_usage(place).free
        if free < size:
            raise OSError(f"has only {free >> 20} MB free")
        with tempfile.TemporaryFile(dir=place) as file:
            # a disk that fills up later would kill the process without a word
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            map_ = _Map(file.fileno(), size)
            map_.file = os.dup(file.fileno())
            # no guesses what is read next (they took eight times as long): `expect` says it
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(map_.file, 0, 0, os.POSIX_FADV_RANDOM)
    except OSError as error:
        need = f"a matrix of {rows} x {columns} values needs {size >> 20} MB"
        remedy = (
            "choose another server.scratch_dir, or raise "
            f"server.max_updates_mb={budget_bytes >> 20} where there is as much RAM"
        )
        raise ConfigError(
            f"server.scratch_dir={place}: {need}, and this folder {error.strerror or error}; "
            f"{remedy}"
        ) from error
    matrix = torch.frombuffer(map_, dtype=torch.float32)
    _MAPS[matrix.data_ptr()] = map_
    return matrix.view(rows, columns)


def is_mapped(tensor: Tensor) -> bool:
    """Whether the tensor (a matrix of `allocate`, or a part of one) lies in a file."""
    return tensor.device.type == "cpu" and _home(tensor) in _MAPS


def fill(target: Tensor, make: Callable[..., object]) -> None:
    """Let `make(out=...)` write all values of a row, or of a range of its columns: where they
    belong, or, if that is in a file, into fresh memory from which they are written there."""
    if not _in_file(target):
        make(out=target)
        return
    values = torch.empty_like(target)
    make(out=values)
    file, at, rest = _MAPS[_home(target)].file, _offset(target), _bytes(values)
    while rest:
        written = os.pwrite(file, rest, at)
        at, rest = at + written, rest[written:]


def fetch(source: Tensor, out: Tensor) -> Tensor:
    """Copy a row, or a range of its columns, into `out`, which lies in RAM in one piece; returns
    `out`."""
    if not _in_file(source):
        return out.copy_(source)
    file, at, rest = _MAPS[_home(source)].file, _offset(source), _bytes(out)
    while rest:
        got = os.preadv(file, [rest], at)
        if not got:
            raise OSError("the file of a matrix is shorter than the matrix")
        at, rest = at + got, rest[got:]
    return out


def expect(source: Tensor) -> None:
    """Have the system read a row, or a range of its columns, ahead, where it can."""
    if _in_file(source) and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(
            _MAPS[_home(source)].file, _offset(source), source.nbytes, os.POSIX_FADV_WILLNEED
        )


def _in_file(tensor: Tensor) -> bool:
    return (
        tensor.numel() > 0
        and tensor.is_contiguous()
        and is_mapped(tensor)
        and hasattr(os, "preadv")
    )


def _home(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _offset(tensor: Tensor) -> int:
    return int(tensor.storage_offset()) * tensor.element_size()


def _bytes(values: Tensor) -> memoryview:
    return memoryview(values.numpy().data).cast("B")
