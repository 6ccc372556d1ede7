"""Number of workers that pay off on so many cores and GPUs."""

from __future__ import annotations

import math

from fedrobust.errors import ConfigError

# opening Ray and closing it: measured 5-17 s on two busy cores, imports of the app included
START_UP_SECONDS = 15.0
# by default: beyond it more threads per worker serve better than another copy of everything
MAX_WORKERS = 8


def pays_off(workers: int, work_seconds: float) -> bool:
    """Whether Ray saves more than it costs: W workers save at most work x (1 - 1/W), starting them
    costs START_UP_SECONDS."""
    return workers >= 2 and work_seconds * (1 - 1 / workers) > START_UP_SECONDS


def useful_workers(cores: int, gpus: int, num_clients: int) -> int:
    """One worker per GPU, or per core where there is none; each holds torch, a model and its
    clients' data, so not too many."""
    return max(1, min(gpus or cores, num_clients, MAX_WORKERS))


def check_cpus(workers: int, cpus_per_worker: float, available: float, where: str) -> None:
    """Raises ConfigError where the workers want more CPUs than there are; `where` says which those
    are."""
    if workers * cpus_per_worker > available:
        fitting = int(available // cpus_per_worker)
        remedy = f"engine.workers={fitting}" if fitting else f"engine.cpus_per_worker={available:g}"
        wanted = f"{workers} x {cpus_per_worker:g} CPUs wanted, {available:g} {where}"
        raise ConfigError(f"engine.workers={workers}: {wanted}; try {remedy}")


def gpu_share(gpus: int, workers: int) -> float:
    """The part of a GPU that each of the workers gets, so that all of them fit: 0 without GPUs,
    never more than one."""
    return 1 / math.ceil(workers / gpus) if gpus else 0
