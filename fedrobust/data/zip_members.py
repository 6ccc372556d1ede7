"""Members of zip archives, read within bounds: an archive is data from outside."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from fedrobust.errors import DataError
from fedrobust.utils.names import shown_name

# what the standard library unfolds in pieces of a bounded size: a few kilobytes of bzip2 unfold to
# gigabytes at once
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED, UTF8_NAME = 0x1, 0x800  # flags of a member: the second of its name
NO_ZIP = "no whole zip file"


def open_archive(path: Path) -> zipfile.ZipFile:
    """The archive, open for reading.

    Raises:
        DataError: it is no regular file or no whole zip file, or its members overlap, as those of
            a bomb do.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise DataError(f"{path}: {NO_ZIP}")
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable zip file ({error})") from error
    if sum(info.compress_size for info in archive.infolist()) > path.stat().st_size:
        archive.close()
        raise DataError(f"{path}: its members overlap, as those of a bomb do")
    return archive


def files_of(archive: zipfile.ZipFile, path: Path) -> Mapping[str, zipfile.ZipInfo]:
    """The members that are no folders, by name.

    Raises:
        DataError: two have one name; `path` is put before it.
    """
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = _member_name(info)
        if info.is_dir() or name.endswith("/"):
            continue
        if name in infos:
            raise DataError(f"{path}: holds {shown_name(name)} twice; pack it anew")
        infos[name] = info
    return infos


def _member_name(info: zipfile.ZipInfo) -> str:
    """The name with "/" (Windows packs with backslashes), and in UTF-8 where it is that and nothing
    says so (as macOS packs)."""
    name = info.filename
    if not info.flag_bits & UTF8_NAME and not name.isascii():
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def unreadable_members(infos: Mapping[str, zipfile.ZipInfo]) -> dict[str, str]:
    """The members that are not read, with the reason."""
    reasons = {name: _reason(name, info) for name, info in infos.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _reason(name: str, info: zipfile.ZipInfo) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return "a path that leads out of the archive"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a link"
    if info.flag_bits & ENCRYPTED:
        return "encrypted"
    if info.compress_type not in METHODS:
        return f"compressed by method {info.compress_type}; stored and deflated are read"
    return ""


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """The bytes of a member.

    Raises:
        ValueError: it unfolds to more than `limit` bytes.
        zipfile.BadZipFile: it is damaged.
    """
    if info.file_size > limit:
        raise ValueError(too_large(info.file_size, limit))
    with archive.open(info) as member:
        content = member.read(limit + 1)
    if len(content) > limit:
        raise ValueError(too_large(len(content), limit))
    return content


def too_large(size: int, limit: int) -> str:
    """The reason why a file is not read."""
    return f"{size / 1e6:.0f} MB; files above {limit / 1e6:.0f} MB are not read"
