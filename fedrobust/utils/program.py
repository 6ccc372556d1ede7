"""The program's own sources as a part of keys: what an edited program made is made again."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import fedrobust
from fedrobust.utils.plugins import sources_digest

_PACKAGES = ("fedrobust", "strategies", "clients")


@functools.cache
def program_digest(plugins: tuple[str, ...] = ()) -> str:
    """SHA-256 over the sources of the packages and of the plug-ins of these names: an edited rule
    or trainer must not get a twin of the old one."""
    sha, root = hashlib.sha256(), Path(fedrobust.__file__).parents[1]
    # a wheel holds the others inside
    names = _PACKAGES[:1] if (root / "fedrobust" / "strategies").exists() else _PACKAGES
    for path in sorted(path for package in names for path in (root / package).rglob("*.py")):
        sha.update(f"{path.relative_to(root).as_posix()};".encode() + path.read_bytes())
    for name in plugins:
        sha.update(f"{name};{sources_digest(name)}".encode())
    return sha.hexdigest()
