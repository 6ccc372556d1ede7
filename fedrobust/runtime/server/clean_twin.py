"""The clean twin: the same run without contamination, trained once per configuration and machine
kind, and cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from fedrobust.data import cache
from fedrobust.errors import DataError
from fedrobust.experiment import build
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.settings import to_json, twin_settings
from fedrobust.learning.model_files import load_state, save_state
from fedrobust.reporting.records import record_from
from fedrobust.runtime.server.checkpointing import CheckpointManager
from fedrobust.runtime.server.loop import TrainingResult, build_server_context, run_rounds
from fedrobust.runtime.server.rule_strategy import Grid
from fedrobust.state import Layout, State
from fedrobust.types import TWIN, Observer, RoundRecord
from fedrobust.utils.plugins import PLUGINS
from fedrobust.utils.program import program_digest


def cache_folder() -> Path:
    """Folder of finished twins: $FEDROBUST_CACHE, else ~/.cache/fedrobust."""
    return cache.folder() / "twins"


def twin_key(
    twin_config: Mapping[str, Any],
    data_digest: str,
    device: str,
    threads: tuple[int, int],
    frozen: str = "",
) -> str:
    """SHA-256 over all that decides the twin's weights: its configuration, the data, the program,
    the device, the torch threads of the server and of a client (float sums differ between thread
    counts), and the digest of the model's frozen part."""
    settings = twin_settings(twin_config)
    facts = {
        "data": data_digest,
        "device": device,
        "threads": threads,
        "torch": torch.__version__,
        "program": program_digest(tuple(twin_config.get(PLUGINS, ()))),
        **({"frozen": frozen} if frozen else {}),
    }
    return hashlib.sha256(to_json({"settings": settings, "facts": facts}).encode()).hexdigest()


def load_twin(name: str, layout: Layout) -> tuple[State, list[RoundRecord]] | None:
    """A finished twin, or None. A damaged file counts as none: the twin is then trained again and
    the file replaced."""
    path = cache_folder() / f"{name}.safetensors"
    if not path.exists():
        return None
    try:
        state, notes = load_state(path, layout)
        return state, [record_from(item) for item in json.loads(notes["rounds"])]
    except (DataError, KeyError, ValueError, TypeError):
        return None


def save_twin(name: str, layout: Layout, state: State, records: list[RoundRecord]) -> None:
    """Keep a finished twin for later runs."""
    notes = {"rounds": json.dumps([asdict(record) for record in records])}
    save_state(cache_folder() / f"{name}.safetensors", layout, state, notes=notes)


def train_clean_twin(
    experiment: Experiment,
    finished: TrainingResult,
    grid: Grid,
    observer: Observer,
    checkpointing: CheckpointManager | None = None,
) -> TrainingResult:
    """The same run without contamination, with as many rounds: this run itself where no client is
    contaminated, else from the cache, else trained. A new one is kept in the cache, so that any
    difference in its contamination only finds it there."""
    clean = build.remember(experiment.clean_twin(finished.rounds))
    server = build_server_context(clean)
    threads = torch.get_num_threads(), getattr(grid, "threads", 0)
    device = next(server.model.parameters()).device.type
    name = twin_key(clean.config, clean.dataset.digest, device, threads, server.frozen_sha256)
    if not (experiment.clients_of_kind("poisoned") or experiment.clients_of_kind("noisy")):
        _cache_twin(name, server.layout, finished, observer, checkpointing)
        return finished
    cached = load_twin(name, server.layout)
    if cached is None:
        trained = run_rounds(server, grid, observer, TWIN, checkpointing)
        _cache_twin(name, server.layout, trained, observer, checkpointing)
        return trained
    state, records = cached
    observer.run_started(TWIN, clean.settings.rounds, clean.num_clients)
    for record in records:
        observer.round_finished(TWIN, record)
    observer.stage(TWIN, "taken from the cache")
    return TrainingResult(state, tuple(records))


def _cache_twin(
    name: str,
    layout: Layout,
    trained: TrainingResult,
    observer: Observer,
    checkpointing: CheckpointManager | None,
) -> None:
    """Into the cache, unless a client failed: its bad moment must not be kept for all later runs;
    nor a run resumed under changed conditions, which no other run equals. A cache
    that cannot be written costs later runs time, but not this run its result."""
    mixture = (
        checkpointing is not None and not checkpointing.exact and trained.seconds_before_resume
    )
    if mixture or any(record.failures for record in trained.records):
        return
    try:
        # that this run was ended is no fact of the twin of another
        records = [replace(record, stopped="") for record in trained.records]
        save_twin(name, layout, trained.state, records)
    except OSError as error:
        observer.stage(TWIN, f"not kept for later runs: {error}")
