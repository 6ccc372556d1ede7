"""GPUs, memory and installed versions of this machine; torch is imported late."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import fedrobust

# whether numba is there (the extra `fast`), which compiles the loops that a CPU spends its time in
HAS_NUMBA = find_spec("numba") is not None


def gpus() -> int:
    """The GPUs this process may use."""
    import torch

    return torch.cuda.device_count()


def installed_version(package: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def version_line() -> str:
    """The line of `--version`: this package's, and those of what decides a result most."""
    others = [f"{name} {installed_version(name) or 'missing'}" for name in ("torch", "flwr")]
    parts = [*others, f"Python {platform.python_version()}"]
    return f"fedrobust {fedrobust.__version__} ({', '.join(parts)})"


def peak_memory() -> int | None:
    """The most bytes that this process had in memory (since the system's mark was last reset); None
    where the system does not tell."""
    return _bytes_of("/proc/self/status", "VmHWM")


def memory() -> int | None:
    """Bytes that this process has in memory; None where the system does not tell."""
    return _bytes_of("/proc/self/status", "VmRSS")


def total_memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not tell."""
    return _bytes_of("/proc/meminfo", "MemTotal")


def _bytes_of(file: str, name: str) -> int | None:
    """A line `name: 12 kB` of one of the system's files."""
    with suppress(OSError):
        for line in Path(file).read_text(encoding="utf-8").split("\n"):
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
    return None
