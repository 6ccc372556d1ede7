"""Image files to uint8 RGB squares, through the cache."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fedrobust.data import cache
from fedrobust.data.files import Files
from fedrobust.errors import DataError
from fedrobust.utils.names import shown_name

VERSION = 1  # raise it whenever a pixel may change: it is part of the cache key
# far above any dermatoscope, far below what a decompression bomb unfolds to
MAX_PIXELS = 50_000_000
WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def read_images(
    files: Files, names: Sequence[str], size: int, on_broken: str
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """(images (n, 3, size, size) uint8, kept rows (n,) of `names`, names of the skipped files).

    The whole picture is squeezed into the square (bicubic with antialiasing), as MedMNIST does;
    grey becomes three equal channels. on_broken: "error" raises DataError at the first unreadable
    file, "skip" leaves such files out.
    """
    key = ["files", VERSION, size, files.stamp(names)]
    strict = on_broken == "error"
    images, unreadable = cache.images(
        key, (len(names), 3, size, size), lambda out: _fill(out, files, names, strict)
    )
    if unreadable and strict:
        raise DataError(
            f"{files.label}: {shown_name(names[unreadable[0]])} cannot be read; mend it or set "
            "data.on_broken=skip"
        )
    if not unreadable:
        return images, torch.arange(len(names)), ()
    keep = torch.ones(len(names), dtype=torch.bool)
    keep[list(unreadable)] = False
    return images[keep], keep.nonzero().reshape(-1), tuple(names[row] for row in unreadable)


def _fill(out: NDArray[np.uint8], files: Files, names: Sequence[str], strict: bool) -> list[int]:
    unreadable = []
    for row, result in enumerate(_decoded(files, names, out.shape[-1])):
        if isinstance(result, Exception):
            if strict:
                remedy, name = "mend it or set data.on_broken=skip", shown_name(names[row])
                raise DataError(
                    f"{files.label}: {name} cannot be read ({_line(result)}); {remedy}"
                ) from result
            unreadable.append(row)
        else:
            out[row] = result
    return unreadable


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _decoded(
    files: Files, names: Sequence[str], size: int
) -> Iterator[NDArray[np.uint8] | Exception]:
    """Results in order; Pillow works outside the interpreter's lock, so threads help."""

    def one(name: str) -> NDArray[np.uint8] | Exception:
        try:
            return decode_image(files.read(name), size)
        # broken files make Pillow raise almost anything; the caller decides what it means
        except Exception as error:
            return error

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        yield from pool.map(one, names)
    finally:
        pool.shutdown(cancel_futures=True)


def decode_image(data: bytes, size: int) -> NDArray[np.uint8]:
    """The first frame of an encoded picture as (3, size, size) uint8 RGB.

    Raises Pillow's own errors for broken files, ValueError for more than `MAX_PIXELS` or for
    16-bit and float pixels.
    """
    with Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are too many")
        if image.mode in WIDE_MODES:
            raise ValueError(f"{image.mode} pixels; convert the images to 8 bits")
        return squeeze(np.asarray(image.convert("RGB")), size)


def squeeze(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(H, W, 3) -> (3, size, size), resized with antialiasing where it has another size."""
    if pixels.shape[:2] != (size, size):
        pixels = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    return pixels.transpose(2, 0, 1)
