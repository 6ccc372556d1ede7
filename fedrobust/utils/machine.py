"""GPUs and installed versions of this machine; torch is imported late."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

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
