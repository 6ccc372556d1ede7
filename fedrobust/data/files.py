"""Image files in a folder or in a zip archive, seen the same way: names with "/" relative to the
root."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fedrobust.errors import DataError
from fedrobust.utils.names import shown_name, stored_path

UTF8_NAME = 0x800  # flag of a zip member whose name is said to be UTF-8
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
    path = stored_path(root)
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
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = _member_name(info)
        if info.is_dir() or name.endswith("/"):
            continue
        if name in infos:
            raise DataError(f"{path}: holds {shown_name(name)} twice; pack it anew")
        infos[name] = info

    def stamp(names: Sequence[str]) -> list[list[str | int]]:
        return [[name, infos[name].file_size, infos[name].CRC] for name in names]

    return Files(str(path), sorted(infos), stamp, lambda name: archive.read(infos[name]))


def _member_name(info: zipfile.ZipInfo) -> str:
    """The name with "/" (Windows packs with backslashes), and in UTF-8 where it is that and nothing
    says so (as macOS packs)."""
    name = info.filename
    if not info.flag_bits & UTF8_NAME and not name.isascii():
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


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
