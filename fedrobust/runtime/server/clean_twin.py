"""The clean twin: the same run without contamination, trained once per configuration and machine
kind, and cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fedrobust.data import cache
from fedrobust.errors import DataError
from fedrobust.evaluation.counts import Scored
from fedrobust.experiment import build
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.settings import to_json, twin_settings
from fedrobust.learning.model_files import load_state, save_state
from fedrobust.reporting.records import record_from
from fedrobust.runtime.server.checkpointing import CheckpointManager
from fedrobust.runtime.server.loop import (
    TrainingResult,
    build_server_context,
    evaluate_clients,
    run_rounds,
)
from fedrobust.runtime.server.rule_strategy import Grid, ServerContext
from fedrobust.state import Layout, State
from fedrobust.types import TWIN, Observer, RoundRecord
from fedrobust.utils import files, tensor_files
from fedrobust.utils.plugins import PLUGINS
from fedrobust.utils.program import program_digest

PERSONAL_CLEAN = "personal_clean"  # the condition under which a twin's own models are evaluated


@dataclass(frozen=True)
class CleanTwin:
    """A finished clean twin. personal: by client what its own model of the twin predicts on its
    clean test images; empty where clients have none, and at real sites, which evaluate one run."""

    training: TrainingResult
    personal: Mapping[int, Scored] = field(default_factory=dict)


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


def load_personal(name: str) -> dict[int, Scored] | None:
    """What the own models of a finished twin's clients predict, or None, as `load_twin`."""
    path = _personal_path(name)
    if not path.exists():
        return None
    try:
        tensors = tensor_files.read_sealed(path)
        clients = sorted(int(key) for key in {key.partition("/")[0] for key in tensors})
        return {one: (tensors[f"{one}/probabilities"], tensors[f"{one}/labels"]) for one in clients}
    except (DataError, *tensor_files.UNREADABLE):
        return None


def save_personal(name: str, found: Mapping[int, Scored]) -> None:
    """Keep what the own models of a finished twin's clients predict."""
    tensors = {}
    for client, (probabilities, labels) in found.items():
        tensors[f"{client}/probabilities"] = probabilities
        tensors[f"{client}/labels"] = labels
    files.write(_personal_path(name), tensor_files.pieces(tensors, seal=True))


def _personal_path(name: str) -> Path:
    return cache_folder() / f"{name}.personal.safetensors"


def train_clean_twin(
    experiment: Experiment,
    finished: TrainingResult,
    grid: Grid,
    observer: Observer,
    checkpointing: CheckpointManager | None = None,
) -> CleanTwin:
    """The same run without contamination, with as many rounds: this run itself where no client is
    contaminated, else from the cache, else trained. A new one is kept in the cache, so that any
    difference in its contamination only finds it there."""
    clean = build.remember(experiment.clean_twin(finished.rounds))
    server = build_server_context(clean)
    threads = torch.get_num_threads(), getattr(grid, "threads", 0)
    device = next(server.model.parameters()).device.type
    name = twin_key(clean.config, clean.dataset.digest, device, threads, server.frozen_sha256)
    wanted = experiment.personalises and not experiment.sites
    if not experiment.contaminated:
        own: dict[int, Scored] = {}
        if wanted:
            context = build_server_context(experiment)
            own = _evaluate_personal(context, finished, grid, observer)
        twin = CleanTwin(finished, own)
        if not wanted or len(own) == clean.num_clients:
            _cache_twin(name, server.layout, twin, observer, checkpointing)
        return twin
    cached, personal = load_twin(name, server.layout), load_personal(name) if wanted else {}
    if cached is None or personal is None:
        trained = run_rounds(server, grid, observer, TWIN, checkpointing)
        own = _evaluate_personal(server, trained, grid, observer) if wanted else {}
        twin = CleanTwin(trained, own)
        if not wanted or len(own) == clean.num_clients:
            _cache_twin(name, server.layout, twin, observer, checkpointing)
        return twin
    state, records = cached
    observer.run_started(TWIN, clean.settings.rounds, clean.num_clients)
    for record in records:
        observer.round_finished(TWIN, record)
    observer.stage(TWIN, "taken from the cache")
    return CleanTwin(TrainingResult(state, tuple(records)), personal)


def _evaluate_personal(
    server: ServerContext, trained: TrainingResult, grid: Grid, observer: Observer
) -> dict[int, Scored]:
    """What each client's own model predicts on its clean test images."""
    found = evaluate_clients(server, trained.state, grid, observer, trained.rounds, run=TWIN)
    return {
        client: part
        for client, one in found.items()
        if isinstance(one, Mapping) and isinstance(part := one.get(PERSONAL_CLEAN), tuple)
    }


def _cache_twin(
    name: str,
    layout: Layout,
    twin: CleanTwin,
    observer: Observer,
    checkpointing: CheckpointManager | None,
) -> None:
    """Into the cache, unless a client failed: its bad moment must not be kept for all later runs;
    nor a run resumed under changed conditions, which no other run equals. A cache
    that cannot be written costs later runs time, but not this run its result."""
    trained = twin.training
    mixture = (
        checkpointing is not None and not checkpointing.exact and trained.seconds_before_resume
    )
    if mixture or any(record.failures for record in trained.records):
        return
    try:
        # that this run was ended is no fact of the twin of another
        records = [replace(record, stopped="") for record in trained.records]
        if twin.personal:
            save_personal(name, twin.personal)
        save_twin(name, layout, trained.state, records)
    except OSError as error:
        observer.stage(TWIN, f"not kept for later runs: {error}")
