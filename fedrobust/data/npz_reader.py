"""Arrays in a numpy archive (npz), read within bounds.

What an array's header says is compared with the size of the array in the archive before anything is
allocated, numbers are bounded, and images are read in pieces. Pickled objects are never loaded.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedrobust.data.dataset import MOST_KINDS
from fedrobust.data.pictures import MAX_PIXELS
from fedrobust.data.zip_members import ENCRYPTED, METHODS, files_of, open_archive
from fedrobust.errors import DataError
from fedrobust.utils.counting import format_count
from fedrobust.utils.names import shown_list

NPY = ".npy"
MAX_NUMBERS = 2**30  # bytes of labels or sites
MAX_COLUMN_ORDER = 2**30  # bytes of images that lie in column order and cannot be read row by row
PIECE = 2**22  # bytes


@dataclass(frozen=True, slots=True)
class Header:
    """What an array's header says. offset: its own length in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    columns_first: bool
    offset: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class NpzReader:
    """An npz file, open in a with statement.

    Raises:
        DataError: its content cannot be used, as all methods do.
        OSError, EOFError, ValueError, zipfile.BadZipFile: it is damaged, as all methods do.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise DataError(
                    f"{path}: holds a single array (npy); needed is an npz file with "
                    "train_images and train_labels"
                )
        try:
            self._archive = open_archive(path)
        except DataError as error:
            raise zipfile.BadZipFile(str(error).removeprefix(f"{path}: ")) from error
        self._members = {
            name.removesuffix(NPY): info for name, info in files_of(self._archive, path).items()
        }
        self.keys = tuple(self._members)

    def __enter__(self) -> NpzReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._archive.close()

    def sha256(self) -> str:
        """The hash of the file's bytes."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def header(self, key: str) -> Header:
        """The header of an array. Raises DataError where it does not agree with the archive."""
        with self._open(key) as stream:
            version = npy.read_magic(stream)
            if version not in ((1, 0), (2, 0)):
                raise DataError(f"{self.path}: {key} has a header of version {version}")
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, columns_first, dtype = read(stream)
            found = Header(shape, dtype, columns_first, stream.tell())
        if dtype.hasobject:
            raise DataError(
                f"{self.path}: {key} holds pickled objects (allow_pickle), which are never loaded"
            )
        held = self._members[key].file_size
        if found.offset + found.num_bytes != held:
            raise DataError(
                f"{self.path}: {key} claims {dtype} {shape}, {found.num_bytes} bytes; "
                f"the archive holds {held - found.offset}"
            )
        return found

    def numbers(self, key: str) -> NDArray[np.int64]:
        """(n,) whole numbers from 0 up to below `MOST_KINDS`, stored as (n,) or (n, 1)."""
        if key not in self._members:
            raise DataError(f"{self.path}: has no {key}; its keys are {shown_list(self.keys)}")
        head = self.header(key)
        if (
            head.dtype.kind not in "iu"
            or len(head.shape) not in (1, 2)
            or math.prod(head.shape) != head.shape[0]
        ):
            raise DataError(
                f"{self.path}: {key} is {head.dtype} {head.shape}; needed are whole "
                "numbers (n,) or (n, 1), one class per image"
            )
        if head.num_bytes > MAX_NUMBERS:
            raise DataError(f"{self.path}: {key} has {head.shape[0]} rows, which are too many")
        with self._open(key) as stream:
            values = npy.read_array(stream, allow_pickle=False).reshape(-1)
        if values.min(initial=0) < 0:
            raise DataError(f"{self.path}: {key} holds {values.min()}; numbers start at 0")
        if values.max(initial=0) >= MOST_KINDS:
            raise DataError(
                f"{self.path}: {key} holds {values.max()}; numbers are below {MOST_KINDS}"
            )
        return values.astype(np.int64)

    def check_images(self, key: str, rows: int) -> None:
        """Raises DataError unless the array holds so many 8-bit images."""
        head = self.header(key)
        shape = head.shape
        if head.dtype != np.uint8 or not (
            len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
        ):
            raise DataError(
                f"{self.path}: {key} is {head.dtype} {shape}; needed is "
                "uint8 (n, H, W) or (n, H, W, 3)"
            )
        if shape[0] != rows:
            raise DataError(
                f"{self.path}: {key} has {format_count(shape[0], 'row')}, "
                f"{key.removesuffix('images')}labels {rows}"
            )
        if not 0 < shape[1] * shape[2] <= MAX_PIXELS:
            raise DataError(f"{self.path}: {key} has images of {shape[1]}x{shape[2]} pixels")
        if head.columns_first and head.num_bytes > MAX_COLUMN_ORDER:
            raise DataError(
                f"{self.path}: {key} lies in column order; save np.ascontiguousarray of it"
            )

    def images(self, key: str) -> Iterator[NDArray[np.uint8]]:
        """The images of an array that `check_images` has passed, one after the other, (H, W) or
        (H, W, C); a piece of them is in memory at a time."""
        head = self.header(key)
        with self._open(key) as stream:
            if head.columns_first:
                yield from npy.read_array(stream, allow_pickle=False)
                return
            stream.read(head.offset)
            each = math.prod(head.shape[1:])
            at_once = max(1, PIECE // each)
            for start in range(0, head.shape[0], at_once):
                count = min(at_once, head.shape[0] - start)
                content = stream.read(count * each)
                if len(content) != count * each:
                    raise EOFError(f"{key} ends too early")
                yield from np.frombuffer(content, np.uint8).reshape(count, *head.shape[1:])
            stream.read(1)  # the archive's checksum is compared at the end

    def _open(self, key: str) -> IO[bytes]:
        info = self._members[key]
        if info.flag_bits & ENCRYPTED or info.compress_type not in METHODS:
            raise zipfile.BadZipFile(f"{key} is encrypted or compressed in an unusual way")
        return self._archive.open(info)
