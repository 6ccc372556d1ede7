"""manifest.json: what is needed to repeat a run, written before it starts. It holds no environment
variables and no host name."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fedrobust.reporting.filenames import MANIFEST
from fedrobust.utils.files import write_text
from fedrobust.utils.machine import installed_version
from fedrobust.utils.plugins import PLUGINS, plugin_facts
from fedrobust.utils.program import program_digest

PACKAGES = (
    *(
        "fedrobust",
        "flwr",
        "hydra-core",
        "numba",
        "numpy",
        "pandas",
        "pillow",
        "ray",
        "safetensors",
    ),
    *("scikit-learn", "scipy", "timm", "torch", "torchvision"),
)
GIT_SECONDS = 10.0


def write_manifest(
    folder: Path,
    config: Mapping[str, Any],
    *,
    seed: int,
    facts: Mapping[str, Mapping[str, Any]],
    device: str,
    command_line: Sequence[str],
    client_threads: int | None = None,
) -> dict[str, Any]:
    """Write manifest.json and return what it holds.

    config: the resolved configuration. facts: by name ("data", "model") plain JSON values, as
    digests and counts. device: its name. command_line: as typed; of the program only the file name
    is kept. client_threads: torch's, of each client. Raises ValueError for values that JSON cannot
    hold.
    """
    manifest = {
        "schema": 1,
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config,
        "seed": seed,
        **facts,
        **conditions(device, client_threads, config.get(PLUGINS, ())),
        "command_line": [
            Path(word).name if place == 0 else word for place, word in enumerate(command_line)
        ],
        "git": _own_git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }
    return _write(folder, manifest)


def conditions(
    device: str, client_threads: int | None, plugins: Sequence[str] = ()
) -> dict[str, Any]:
    """Conditions that decide the last bits of a result beside configuration, seed and data: device,
    processor, versions and number of threads (float sums differ between thread counts and between
    the instruction sets of processors); and the code of the plug-ins."""
    return {
        "device": device,
        "torch_threads": torch.get_num_threads(),
        "client_threads": client_threads,
        "processor": processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "packages": package_versions(),
        "program": program_digest(),
        "plugins": plugin_facts(plugins),
    }


def changes(manifest: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences, in words, between the `conditions` now and those in the manifest of a run."""
    old, new = dict(manifest.get("packages", {})), now["packages"]
    found = [f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]
    if manifest.get("program") != now["program"]:
        found.append("the program's sources")
    found += _plugin_changes(manifest.get("plugins", {}), now["plugins"])
    names = {
        "device": "device",
        "processor": "processor",
        "cpu_capability": "instruction set",
        "torch_threads": "OMP_NUM_THREADS",
        "client_threads": "engine.threads",
    }
    for key, name in names.items():
        pair = [str(facts.get(key)) for facts in (manifest, now)]
        if key == "device":  # a CPU's says its threads, which have a line of their own
            pair = ["cpu" if one.startswith("cpu") else one for one in pair]
        if pair[0] != pair[1]:
            found.append(f"{name} {pair[0]} -> {pair[1]}")
    return found


def _plugin_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*old, *new}):
        before, after = old.get(name, {}), new.get(name, {})
        if before.get("version") != after.get("version"):
            yield f"plug-in {name} {before.get('version')} -> {after.get('version')}"
        elif before != after:
            yield f"the sources of the plug-in {name}"


def note_resumption(
    folder: Path, manifest: Mapping[str, Any], engine: str, changed: Sequence[str]
) -> dict[str, Any]:
    """Add to the manifest that, when, on which engine and under which changed conditions the run
    was taken up again. Returns what it holds now."""
    entry = {
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "engine": engine,
        "changed": list(changed),
    }
    return _write(folder, {**manifest, "resumed": [*manifest.get("resumed", []), entry]})


def _write(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"{MANIFEST}: {error}") from error
    write_text(folder / MANIFEST, text + "\n")
    return manifest


def processor() -> str:
    """The processor's own name, e.g. "AMD EPYC 7B13"; its architecture where the system does not
    tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n"):
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def package_versions() -> dict[str, str | None]:
    """Installed versions of the packages that can change a result; None where one is not
    installed."""
    return dict(_look_up(PACKAGES))


@functools.cache
def _look_up(packages: tuple[str, ...]) -> Mapping[str, str | None]:
    """Once in a process: what it has imported stays."""
    return {name: installed_version(name) for name in packages}


@functools.cache
def _own_git_state() -> dict[str, Any] | None:
    """`git_state` of this package when it was first asked for, as near as can be to its import."""
    return git_state(Path(__file__).parent)


def git_state(package: Path) -> dict[str, Any] | None:
    """{"commit", "dirty"} of the checkout that tracks the package in this folder; None outside a
    checkout or without git.

    dirty: tracked files were changed or untracked, not ignored files lie about. An installed
    package that merely lies inside another repository is not tracked by it and gives None.
    """
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain")
    if tracked is None or commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
