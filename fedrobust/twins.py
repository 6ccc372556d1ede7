"""The clean twin's cache: the same run without contamination is trained once per configuration and machine kind."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import fedrobust
from fedrobust.checkpoint import load_state, save_state
from fedrobust.config import to_json
from fedrobust.data import cache
from fedrobust.errors import DataError
from fedrobust.layout import Layout
from fedrobust.records import record_from
from fedrobust.types import RoundRecord, State

# Settings that cannot change a clean run's weights: who computes does not matter, only the device and the threads do.
_IRRELEVANT = ("contamination", "noise", "corruption", "evaluation", "evasion", "purifier", "engine")
_IRRELEVANT_OF_THE_SERVER = ("checkpoint_every", "keep_checkpoints")
_PACKAGES = ("fedrobust", "strategies", "clients")


def cache_folder() -> Path:
    """Where finished twins are kept: $FEDROBUST_CACHE, else ~/.cache/fedrobust."""
    return cache.folder() / "twins"


def key(twin_config: Mapping[str, Any], data_digest: str, device: str, threads: tuple[int, int]) -> str:
    """SHA-256 over all that decides the twin's weights: its configuration, the data, the program, the device, and the torch
    threads of the server and of a client (float sums differ between thread counts)."""
    settings = {name: value for name, value in twin_config.items() if name not in _IRRELEVANT}
    settings["server"] = {name: value for name, value in twin_config["server"].items() if name not in _IRRELEVANT_OF_THE_SERVER}
    settings["validation_images"] = twin_config["evaluation"].get("validation_images")
    settings["gpus_per_worker"] = twin_config["engine"].get("gpus_per_worker")
    facts = {"data": data_digest, "device": device, "threads": threads, "torch": torch.__version__, "program": program_digest()}
    return hashlib.sha256(to_json({"settings": settings, "facts": facts}).encode()).hexdigest()


@functools.cache
def program_digest() -> str:
    """SHA-256 over the sources of the packages: whoever edits a rule or a trainer must not get a twin of the old one."""
    sha, root = hashlib.sha256(), Path(fedrobust.__file__).parents[1]
    for path in sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py")):
        sha.update(f"{path.relative_to(root).as_posix()};".encode() + path.read_bytes())
    return sha.hexdigest()


def load(name: str, layout: Layout) -> tuple[State, list[RoundRecord]] | None:
    """A finished twin, or None. A damaged file counts as none: the twin is then trained again and the file replaced."""
    path = cache_folder() / f"{name}.safetensors"
    if not path.exists():
        return None
    try:
        state, notes = load_state(path, layout)
        return state, [record_from(item) for item in json.loads(notes["rounds"])]
    except (DataError, KeyError, ValueError, TypeError):
        return None


def save(name: str, layout: Layout, state: State, records: list[RoundRecord]) -> None:
    """Keep a finished twin for later runs."""
    notes = {"rounds": json.dumps([asdict(record) for record in records])}
    save_state(cache_folder() / f"{name}.safetensors", layout, state, notes=notes)
