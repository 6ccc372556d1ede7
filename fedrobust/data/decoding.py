"""Image files to uint8 RGB squares, through the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageFile
from torch import Tensor

from fedrobust.data import cache
from fedrobust.data.dicom import MissingDecoderError
from fedrobust.data.files import Files
from fedrobust.data.pictures import DEEPEST, decode_image, one_large
from fedrobust.errors import DataError
from fedrobust.utils.counting import format_count
from fedrobust.utils.names import shown_name

T = TypeVar("T")

VERSION = 3  # raise it whenever a pixel may change: it is part of the cache key
LARGE_BYTES = 2**25  # larger files are read one at a time
TOGETHER = 16  # files that a thread is given at once: handing over one takes as long as hashing it
# no full range ends below these values; cameras and scanners have 10, 12 or 14 bits
DARKEST_SET, DARKEST_FILE = 2**14, 2**12
USUAL_BITS = (8, 10, 12, 14)
REMEDY = "mend it, or set data.on_broken=skip to leave such files out and have them named"


def read_images(
    files: Files,
    names: Sequence[str],
    size: int,
    *,
    on_broken: str,
    bits: int | None = None,
    window: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor, Mapping[str, str]]:
    """The images of these files, squeezed to squares (bicubic with antialiasing, as MedMNIST does);
    grey becomes three equal channels.

    Their content decides which cache entry they are, so every file is read, whether it has to be
    decoded or not.

    Args:
        files: where they lie.
        names: which of them.
        size: side of the squares in pixels.
        on_broken: "error" or "skip": leave unreadable files out.
        bits: significant bits of 16-bit pixels; None: 16.
        window: centre and width of the grey values of DICOM files; None: those in the files.

    Returns:
        images (n, 3, size, size) uint8, the kept rows (n,) of `names`, and the names of the skipped
        files with the reasons.

    Raises:
        DataError: a file cannot be read, unless they are to be skipped; a file changes meanwhile;
            the range of 16-bit pixels is in doubt.
    """
    # another package may have switched it on for this process: cut files would pass
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    strict = on_broken == "error"
    hashes = list(_in_threads(files, names, lambda _, content: _hash(content)))
    for row, one in enumerate(hashes):
        if strict and isinstance(one, Exception):
            raise unreadable_file(files, names[row], _line(one))
    content = [_line(one) if isinstance(one, Exception) else one for one in hashes]
    images, unreadable = cache.images(
        ["files", VERSION, size, bits, None if window is None else list(window), content],
        (len(names), 3, size, size),
        lambda out: _fill(
            out, files, dict(zip(names, content, strict=True)), strict, bits=bits, window=window
        ),
    )
    for row, reason in unreadable.items():
        if strict:
            raise unreadable_file(files, names[row], reason)
    if not unreadable:
        return images, torch.arange(len(names)), {}
    keep = torch.ones(len(names), dtype=torch.bool)
    keep[list(unreadable)] = False
    skipped = {names[row]: reason for row, reason in unreadable.items()}
    return images[keep], keep.nonzero().reshape(-1), skipped


def decode_each(
    files: Files, names: Sequence[str], size: int
) -> Iterator[NDArray[np.uint8] | Exception]:
    """The pixels (3, size, size) of each file, or why it cannot be read, in order and without the
    cache."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    return _in_threads(files, names, lambda _, content: decode_image(content, size)[0])


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def unreadable_file(files: Files, name: str, reason: str) -> DataError:
    """The error that names a file."""
    return DataError(f"{files.label}: {shown_name(name)} cannot be read ({reason}); {REMEDY}")


def _fill(
    out: NDArray[np.uint8],
    files: Files,
    expected: Mapping[str, str],
    strict: bool,
    *,
    bits: int | None,
    window: Sequence[float] | None,
) -> Mapping[int, str]:
    """expected: the hash of each file by name, in the order of `out`."""
    names = list(expected)

    def decode(name: str, content: bytes) -> tuple[NDArray[np.uint8], int | None]:
        if _hash(content) != expected[name]:
            raise DataError(
                f"{files.label}: {shown_name(name)} changed while it was read; start again"
            )
        try:
            return decode_image(content, out.shape[-1], bits, window)
        except MissingDecoderError as error:  # never left out: another machine can read it
            raise DataError(f"{files.label}: {shown_name(name)}: {error}") from error

    unreadable, peaks = dict[int, str](), dict[str, int]()
    for row, result in enumerate(_in_threads(files, names, decode)):
        if isinstance(result, DataError):
            raise result
        if isinstance(result, Exception):
            unreadable[row] = _line(result)
            if strict:
                raise unreadable_file(files, names[row], unreadable[row]) from result
        else:
            out[row], peak = result
            if peak is not None:
                peaks[names[row]] = peak
    _refuse_doubtful_range(files.label, peaks)
    return unreadable


def _refuse_doubtful_range(label: str, peaks: Mapping[str, int]) -> None:
    """12-bit values in 16-bit files, taken for 16 bits, would be almost black: doubtful are files
    without any value above 12 bits, and sets without any value above 14 bits.

    Args:
        label: of the set.
        peaks: the largest value of each 16-bit file by name.
    """
    most = max(peaks.values(), default=0)
    least = DARKEST_SET if most < DARKEST_SET else DARKEST_FILE
    doubtful = {name: peak for name, peak in peaks.items() if 0 < peak < least}
    if not doubtful:
        return
    name, peak = next(iter(doubtful.items()))
    bits = next(one for one in USUAL_BITS if max(doubtful.values()) < 2**one)
    remedy = f"set data.bits={bits}" if len(doubtful) == len(peaks) else "convert these to 8 bits"
    raise DataError(
        f"{label}: {len(doubtful)} of {format_count(len(peaks), '16-bit file')} have no value "
        f"above {max(doubtful.values())}, as if they held {bits} bits, the first is "
        f"{shown_name(name)} (up to {peak}); {remedy}, or set data.bits={DEEPEST} if they are "
        "that dark"
    )


def _in_threads(
    files: Files, names: Sequence[str], work: Callable[[str, bytes], T]
) -> Iterator[T | Exception]:
    """What `work` makes of each name and content, or the error, in order. Pillow and hashlib work
    outside the interpreter's lock."""

    def one(name: str) -> T | Exception:
        try:
            large = name not in files.unreadable and files.size(name) > LARGE_BYTES
            with one_large if large else nullcontext():
                return work(name, files.read(name))
        # broken files make Pillow raise almost anything; the caller decides what it means
        except Exception as error:
            return error

    def some(start: int) -> list[T | Exception]:
        return [one(name) for name in names[start : start + TOGETHER]]

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for results in pool.map(some, range(0, len(names), TOGETHER)):
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)
