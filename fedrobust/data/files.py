"""Image files in a folder or in a zip archive, seen the same way: names with "/" relative to the
root.

Only regular files below the root are read, none of them larger than `MAX_FILE_BYTES`: a data folder
may hold pipes, devices, links to anywhere and files that unfold to more than the memory holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fedrobust.data.zip_members import (
    files_of,
    open_archive,
    read_member,
    too_large,
    unreadable_members,
)
from fedrobust.errors import DataError
from fedrobust.utils.names import stored_path

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".dcm", ".dicom"),
)
IRREGULAR = "a pipe, a device or a socket; only regular files are read"
# what lies beside images and is none
COMPANIONS = (
    *(".txt", ".md", ".rst", ".pdf", ".doc", ".docx", ".rtf", ".htm", ".html", ".py", ".ipynb"),
    *(".csv", ".tsv", ".tab", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".xls", ".xlsx", ".ods"),
    *(".ini", ".log", ".db", ".md5", ".sha1", ".sha256", ".sha512", ".lock", ".bak"),
)
MAX_FILE_BYTES = 2**28  # 50 million pixels of 16-bit colour take 300 MB without compression
# a pipe does not keep its reader waiting, a link is not followed (neither exists on Windows)
SAFELY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class Files:
    """The files below one root.

    Attributes:
        label: the root as the user named it.
        names: everything that is no folder, sorted; links to folders are among them.
        unreadable: those of them that are not read, with the reason.
        size: bytes of a readable one.
        read: the bytes of one, safe to call from several threads; raises ValueError with the reason
            for those that are not read, OSError or zipfile.BadZipFile for damaged ones.
    """

    label: str
    names: Sequence[str]
    unreadable: Mapping[str, str]
    size: Callable[[str], int]
    read: Callable[[str], bytes]

    @property
    def images(self) -> list[str]:
        """The names that end like images; the invisible files of file managers are none."""
        return [name for name in self.names if is_image(name)]


def is_image(name: str) -> bool:
    """Whether the name ends like an image and no part of the path is hidden."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not is_hidden(name)


def is_companion(name: str) -> bool:
    """Whether the name ends like a text, a table or what file managers leave (Thumbs.db)."""
    return PurePosixPath(name).suffix.lower() in COMPANIONS


def is_hidden(name: str) -> bool:
    """Whether a part of the path is what file managers hide."""
    return any(
        part.startswith((".", "__MACOSX")) and part != ".." for part in PurePosixPath(name).parts
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
    if not path.is_file():
        raise DataError(f"{path}: {IRREGULAR}")
    return _archive(path)


def _folder(root: Path) -> Files:
    top = root.resolve()
    names, unreadable, linked = _list_folder(top)
    if not names and "" in unreadable:
        raise DataError(f"{root}: {unreadable['']}")

    def place(name: str) -> Path:
        if name in unreadable:
            raise ValueError(unreadable[name])
        return linked.get(name, top / name)

    return Files(
        str(root),
        sorted(names),
        unreadable,
        lambda name: place(name).stat().st_size,
        lambda name: read_regular(place(name), MAX_FILE_BYTES),
    )


def _list_folder(top: Path) -> tuple[list[str], dict[str, str], dict[str, Path]]:
    """All names but those of folders, those that are not read with the reason, and where links to
    files lead. Links to folders are not followed, so every folder is read once."""
    names: list[str] = []
    unreadable: dict[str, str] = {}
    linked: dict[str, Path] = {}
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            entries = list(os.scandir(top / folder))
        except OSError as error:
            names += [folder] if folder else []
            unreadable[folder] = f"a folder that cannot be listed ({error.strerror})"
            continue
        for entry in entries:
            name = folder + entry.name
            if entry.is_dir(follow_symlinks=False):
                waiting.append(name + "/")
                continue
            names.append(name)
            if entry.is_symlink():
                target = _follow_link(Path(entry.path), top)
                if isinstance(target, str):
                    unreadable[name] = target
                else:
                    linked[name] = target
            elif not entry.is_file(follow_symlinks=False):
                unreadable[name] = IRREGULAR
    return names, unreadable, linked


def _follow_link(link: Path, top: Path) -> Path | str:
    """The regular file below `top` that a link leads to, or why it is not read."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return "a link to nothing"
    if not target.is_relative_to(top):
        return "a link that leads out of the data folder; put the files themselves there"
    if target.is_dir():
        return "a link to a folder, which is read where it lies"
    return target if target.is_file() else IRREGULAR


def stamp(places: Sequence[Path]) -> str:
    """A digest that differs once a file among these, or one below a folder among them, was written,
    replaced, added or taken away: of names, kinds, sizes, places on the disk, and the times of
    writing and of any change (the last of which no program can set). Nothing is opened; nothing is
    raised."""
    found: list[tuple[str, tuple[int, ...]]] = []
    waiting = [str(place) for place in places]
    for place in waiting:
        with contextlib.suppress(OSError):  # what is not there leaves nothing
            # the place itself may be a link; those below it are not followed
            found.append((place, _stamp_of(os.stat(place))))
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                found.append((entry.path, _stamp_of(entry.stat(follow_symlinks=False))))
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return hashlib.sha256(repr(sorted(found)).encode("utf-8", "surrogateescape")).hexdigest()


def _stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Of a folder the kind alone: what lies in it is stamped itself."""
    kind, place = status.st_mode, (status.st_dev, status.st_ino)
    if stat.S_ISDIR(kind):
        return kind, *place
    return kind, *place, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a regular file that is no link.

    Raises:
        ValueError: it is something else, is larger than `limit` bytes, or grows.
        OSError: it cannot be read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | SAFELY), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(IRREGULAR)
        if status.st_size > limit:
            raise ValueError(too_large(status.st_size, limit))
        content = file.read(status.st_size + 1)
    if len(content) != status.st_size:
        raise ValueError("it changed while it was read")
    return content


def check_regular(path: Path) -> None:
    """Raises DataError for a pipe, a device, a socket and a file above `MAX_FILE_BYTES`; the caller
    refuses folders and what is not there."""
    if not path.exists() or path.is_dir():
        return
    if not path.is_file():
        raise DataError(f"{path}: {IRREGULAR}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise DataError(f"{path}: {too_large(path.stat().st_size, MAX_FILE_BYTES)}")


def _archive(path: Path) -> Files:
    # open as long as the Files value lives; its reads take turns by the archive's own lock
    archive = open_archive(path)
    infos = files_of(archive, path)
    unreadable = unreadable_members(infos)

    def read(name: str) -> bytes:
        if name in unreadable:
            raise ValueError(unreadable[name])
        return read_member(archive, infos[name], MAX_FILE_BYTES)

    return Files(str(path), sorted(infos), unreadable, lambda name: infos[name].file_size, read)


def join_roots(parts: Sequence[Files]) -> Files:
    """Several roots as one; names get the position of their root in front ("0/a.jpg")."""

    def split(name: str) -> tuple[Files, str]:
        position, _, inner = name.partition("/")
        return parts[int(position)], inner

    def size(name: str) -> int:
        part, inner = split(name)
        return part.size(inner)

    def read(name: str) -> bytes:
        part, inner = split(name)
        return part.read(inner)

    return Files(
        ", ".join(part.label for part in parts),
        [f"{place}/{name}" for place, part in enumerate(parts) for name in part.names],
        {
            f"{place}/{name}": reason
            for place, part in enumerate(parts)
            for name, reason in part.unreadable.items()
        },
        size,
        read,
    )
