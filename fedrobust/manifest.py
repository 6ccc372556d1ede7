"""manifest.json: what is needed to repeat a run, written before it starts. It holds no environment variables and no host name."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fedrobust.reporting import write_text

MANIFEST = "manifest.json"
PACKAGES = (
    *("fedrobust", "flwr", "hydra-core", "numpy", "pandas", "pillow", "ray", "safetensors"),
    *("scipy", "timm", "torch", "torchmetrics", "torchvision"),
)
GIT_SECONDS = 10.0


def write_manifest(
    folder: Path, config: Mapping[str, Any], *, seed: int, data: Mapping[str, Any], device: str, command_line: Sequence[str]
) -> Path:
    """Write manifest.json and return its path.

    config: the resolved configuration. data: digest, counts and sizes as plain JSON values. device: its name.
    command_line: as typed; of the program only the file name is kept. Raises ValueError for values that JSON cannot hold.
    """
    manifest = {
        "schema": 1,
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config,
        "seed": seed,
        "data": data,
        "device": device,
        "command_line": [Path(word).name if place == 0 else word for place, word in enumerate(command_line)],
        "git": git_state(Path(__file__).parent),
        "python": platform.python_version(),
        "packages": package_versions(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    try:
        text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"{MANIFEST}: {error}") from error
    return write_text(folder / MANIFEST, text + "\n")


def package_versions() -> dict[str, str | None]:
    """Installed versions of the packages that can change a result; None where one is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_state(package: Path) -> dict[str, Any] | None:
    """{"commit", "dirty"} of the checkout that tracks the package in this folder; None outside a checkout or without git.

    dirty: tracked files were changed or untracked, not ignored files lie about. An installed package that merely lies
    inside somebody's repository is not tracked by it and gives None.
    """
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain")
    if tracked is None or commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
