"""The clean twin's cache: the same run without contamination is trained once per configuration and machine kind."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import fedrobust
from fedrobust.checkpoint import load_state, save_state
from fedrobust.config import to_json
from fedrobust.types import ClientRecord, DataError, Failure, RoundRecord, State
from fedrobust.vectors import Layout

# Settings that cannot change a clean run's weights.
_IRRELEVANT = ("contamination", "noise", "corruption", "evaluation")


def cache_folder() -> Path:
    """Where finished twins are kept: $FEDROBUST_CACHE, else ~/.cache/fedrobust."""
    return Path(os.environ.get("FEDROBUST_CACHE", Path.home() / ".cache" / "fedrobust")) / "twins"


def key(twin_config: Mapping[str, Any], data_digest: str, device: str, threads: int) -> str:
    """SHA-256 over all that decides the twin's weights: its configuration, the data, the versions, the device and the threads
    that compute (float sums differ between thread counts)."""
    settings = {name: value for name, value in twin_config.items() if name not in _IRRELEVANT}
    settings["validation_images"] = twin_config["evaluation"].get("validation_images")
    facts = {"data": data_digest, "device": device, "threads": threads, "torch": torch.__version__, "fedrobust": fedrobust.__version__}
    return hashlib.sha256(to_json({"settings": settings, "facts": facts}).encode()).hexdigest()


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
    notes = {"rounds": json.dumps([asdict(record) for record in records])}
    save_state(cache_folder() / f"{name}.safetensors", layout, state, notes=notes)


def record_from(item: dict[str, Any]) -> RoundRecord:
    """The inverse of `dataclasses.asdict` on a RoundRecord."""
    clients = tuple(ClientRecord(**client) for client in item.pop("clients"))
    failures = tuple(Failure(**failure) for failure in item.pop("failures"))
    return RoundRecord(clients=clients, failures=failures, **item)
