"""Image files in a folder or in a zip archive, seen the same way: names with "/" relative to the
root."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fedrobust.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, slots=True)
class Files:
    """The files below one root. names: sorted. stamp(names): plain values that change when a file's
    content does. read(name): its bytes, safe to call from several threads. label: the root as the
    user named it."""

    label: str
    names: Sequence[str]
    stamp: Callable[[Sequence[str]], list[list[str | int]]]
    read: Callable[[str], bytes]

    @property
    def images(self) -> list[str]:
        """The names that look like images; the invisible files of file managers are none."""
        return [name for name in self.names if is_image(name)]


def is_image(name: str) -> bool:
    """Whether the name ends like an image and no part of the path is hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(
        part.startswith((".", "__MACOSX")) for part in path.parts
    )


def open_root(root: str | Path) -> Files:
    """A folder, or a .zip file.

    Raises DataError when it does not exist, is neither, or is a damaged archive.
    """
    path = Path(root).expanduser()
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise DataError(f"{path}: does not exist; give the folder or zip file of the images")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: neither a folder nor a whole zip file")
    return _archive(path)


def _folder(root: Path) -> Files:
    found = sorted(
        Path(base, name).relative_to(root).as_posix()
        for base, _, names in os.walk(root, followlinks=True)
        for name in names
    )

    def stamp(names: Sequence[str]) -> list[list[str | int]]:
        # Size and time of change instead of the bytes: reading ten thousand photographs at every
        # start takes longer than a round.
        stats = [(root / name).stat() for name in names]
        return [
            [name, stat.st_size, stat.st_mtime_ns] for name, stat in zip(names, stats, strict=True)
        ]

    return Files(str(root), found, stamp, lambda name: (root / name).read_bytes())


def _archive(path: Path) -> Files:
    # open as long as the Files value lives; its reads take turns by the archive's own lock
    archive = zipfile.ZipFile(path)
    infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}

    def stamp(names: Sequence[str]) -> list[list[str | int]]:
        return [[name, infos[name].file_size, infos[name].CRC] for name in names]

    return Files(str(path), sorted(infos), stamp, archive.read)


def join_roots(parts: Sequence[Files]) -> Files:
    """Several roots as one; names get the position of their root in front ("0/a.jpg")."""

    def split(name: str) -> tuple[Files, str]:
        position, _, inner = name.partition("/")
        return parts[int(position)], inner

    def stamp(names: Sequence[str]) -> list[list[str | int]]:
        return [row for name in names for row in split(name)[0].stamp([split(name)[1]])]

    names = [f"{position}/{name}" for position, part in enumerate(parts) for name in part.names]
    return Files(
        ", ".join(part.label for part in parts),
        names,
        stamp,
        lambda name: split(name)[0].read(split(name)[1]),
    )


def find_name(name: str, source: str, known: Container[str]) -> str:
    """The name that a table gives, in the spelling of `known` (stored names).

    Raises DataError for a path that leads out of the root, and for a file that is not there.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name.partition("/")[0]:
        raise DataError(
            f"{source}: image {name} leads out of the data folder; use paths relative to it"
        )
    if path.as_posix() not in known:
        raise DataError(f"{source}: image {name} is not in the data folder; check data.root")
    return path.as_posix()
