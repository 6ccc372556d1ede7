"""A published set as a table that `data=csv` reads, with its images as they lie or resized."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrobust.data.dataset import SPLITS
from fedrobust.data.decoding import decode_each
from fedrobust.data.files import Files
from fedrobust.data.table import EncodedTable
from fedrobust.errors import DataError

SMALLEST = 8  # side of the squares that an image is opened at where only its state matters
FEW = 1000  # files of a folder
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def find_damaged(
    files: Files, names: Sequence[str], said: Callable[[int], object]
) -> dict[str, str]:
    """The files that cannot be read, with the reasons; `said` is told how many are done."""
    found = {}
    for done, (name, result) in enumerate(
        zip(names, decode_each(files, names, SMALLEST), strict=True), start=1
    ):
        if isinstance(result, Exception):
            found[name] = " ".join(str(result).split())[:120] or type(result).__name__
        said(done)
    return found


def make_folder(folder: Path) -> None:
    """An empty folder. Raises DataError where something is in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is there already and not empty; choose a new folder")
    folder.mkdir(parents=True, exist_ok=True)


def write_copies(
    files: Files, names: Sequence[str], folder: Path, size: int, said: Callable[[int], object]
) -> list[str]:
    """Squares of these images as PNG below a folder, pixel for pixel those that sources read.

    Args:
        files: where they lie.
        names: which of them.
        folder: where to.
        size: side of the squares in pixels.
        said: is told how many are done.

    Returns:
        Their new names, relative to the folder.

    Raises:
        DataError: one cannot be read.
    """
    new = []
    for row, pixels in enumerate(decode_each(files, names, size)):
        if isinstance(pixels, Exception):
            raise DataError(f"{files.label}: {names[row]} cannot be read ({pixels}); start again")
        stem = UNSAFE.sub("_", PurePosixPath(names[row]).stem)[:80]
        name = f"images/{row // FEW:03}/{row:06}-{stem}.png"
        _save(pixels, folder / name)
        new.append(name)
        said(row + 1)
    return new


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(path, format="PNG")


def write_table(path: Path, encoded: EncodedTable, images: Sequence[str]) -> None:
    """The table: image, label, split, and site and group where the set has them."""
    table = encoded.table
    columns: dict[str, Sequence[str]] = {
        "image": images,
        "label": table.labels,
        "split": [SPLITS[split] for split in encoded.splits.tolist()],
    }
    if table.sites is not None:
        columns["site"] = table.sites
    if table.groups is not None and table.keep_groups:
        columns["group"] = table.groups
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def rows_without(names: Sequence[str], left_out: Collection[str]) -> Iterator[int]:
    """The rows whose names are not among these."""
    return (row for row, name in enumerate(names) if name not in left_out)
