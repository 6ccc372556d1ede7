"""Engines that run the clients: in this process, or in Ray's workers on this machine or a cluster;
one app, the same messages.

Equal seeds give bit-equal results on both on a CPU, provided that torch uses the same number of
threads: give the same `engine.threads` to both (by default inline has those of
`utils.threads.default_threads`, and each of W workers a share).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from fedrobust.errors import ConfigError
from fedrobust.runtime.engines.resources import check_cpus, gpu_share, pays_off, useful_workers
from fedrobust.utils.machine import gpus
from fedrobust.utils.threads import cores, default_threads, threads_of_each
from fedrobust.utils.validation import (
    Count,
    NonNegative,
    PositiveCount,
    Words,
    check,
    check_settings,
)

if TYPE_CHECKING:
    from fedrobust.runtime.engines.base import SimulationGrid
    from fedrobust.runtime.engines.client_runner import ClientApp


def _unlimited() -> float:
    return math.inf


class GridFactory(Protocol):
    """Makes the Grid, to be used in a `with`, of a client app "module:attribute" for clients 0 ...
    num_clients - 1.

    node_config: what each client finds in its Context besides its partition-id and num-partitions.
    work_seconds: gives an estimate of all the clients' work of the run in one process, by which
    `auto` decides.
    """

    def __call__(
        self,
        client_app: str,
        num_clients: int,
        node_config: Mapping[str, Any] | None = None,
        work_seconds: Callable[[], float] = _unlimited,
    ) -> SimulationGrid: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """A chosen way to run the clients; the Grid it opens has `name` ("inline" or "ray") and
    `description`."""

    name: str
    open: GridFactory


@check_settings("engine")
def inline_engine(threads: PositiveCount | None = None) -> Engine:
    """One client after the other in this process.

    Args:
        threads: of torch; null: OMP_NUM_THREADS, else one per core.

    Returns:
        The engine.

    Raises:
        ConfigError: a setting is out of its range.
    """

    def open_(
        client_app: str | ClientApp,
        num_clients: int,
        node_config: Mapping[str, Any] | None = None,
        work_seconds: Callable[[], float] = _unlimited,
    ) -> SimulationGrid:
        from fedrobust.runtime.engines.inline_grid import InlineGrid

        return InlineGrid(client_app, num_clients, node_config, threads or default_threads())

    return Engine("inline", open_)


@check_settings("engine")
def ray_engine(
    workers: PositiveCount | None = None,
    threads: PositiveCount | None = None,
    *,
    cpus_per_worker: NonNegative = 1,
    gpus_per_worker: NonNegative | None = None,
    address: Annotated[str | None, Words("local, auto or host:port")] = None,
    retries: Count = 1,
) -> Engine:
    """Clients in Ray's worker processes.

    Args:
        workers: processes; null: one per GPU, or per core where there is none, at most MAX_WORKERS
            and one per client.
        threads: of torch in each worker; null: its share of the cores, at most
            OMP_NUM_THREADS.
        cpus_per_worker: CPUs that Ray counts for a worker.
        gpus_per_worker: GPUs that Ray counts for a worker, whole above 1; 0.5: two workers on one;
            null: its share of the GPUs.
        address: null or local: a Ray of our own on this machine; auto or host:port: a running
            cluster, for which workers, threads and GPUs should be given.
        retries: how often a client is tried again when a worker process died over it.

    Returns:
        The engine.

    Raises:
        ConfigError: a setting is out of its range, or this machine has too few CPUs.
    """
    if gpus_per_worker is not None and gpus_per_worker > 1:
        check("engine.gpus_per_worker", gpus_per_worker, int)
    if address not in (None, "local", "auto") and not re.fullmatch(
        r"[^/\s]+:\d{1,5}", str(address)
    ):
        raise ConfigError(f"engine.address={address}: must be null, local, auto or host:port")
    if address in (None, "local"):
        check_cpus(workers or 1, cpus_per_worker, cores(), "is on this machine")

    def open_(
        client_app: str,
        num_clients: int,
        node_config: Mapping[str, Any] | None = None,
        work_seconds: Callable[[], float] = _unlimited,
    ) -> SimulationGrid:
        from fedrobust.runtime.engines.ray_cluster import Cluster, Workers
        from fedrobust.runtime.engines.ray_grid import RayGrid

        number = workers or useful_workers(cores(), gpus(), num_clients)
        share = gpu_share(gpus(), number) if gpus_per_worker is None else gpus_per_worker
        chosen = Workers(number, cpus_per_worker, share, threads or threads_of_each(number))
        return RayGrid(
            client_app,
            num_clients,
            chosen,
            node_config=node_config,
            cluster=Cluster(address, cores()),
            retries=retries,
        )

    return Engine("ray", open_)


@check_settings("engine")
def auto_engine(
    workers: PositiveCount | None = None, threads: PositiveCount | None = None
) -> Engine:
    """Ray where more than one worker pays off, else inline; the opened Grid's `name` says which it
    was. The rule: `pays_off`.

    Args:
        workers: as for ray; 1 always means inline; null: one per GPU, or else per core.
        threads: of torch, in each worker or in this process; null: its share of the cores, at
            most OMP_NUM_THREADS.

    Returns:
        The engine.

    Raises:
        ConfigError: a setting is out of its range.
    """

    def open_(
        client_app: str,
        num_clients: int,
        node_config: Mapping[str, Any] | None = None,
        work_seconds: Callable[[], float] = _unlimited,
    ) -> SimulationGrid:
        number = min(workers or useful_workers(cores(), gpus(), num_clients), num_clients)
        engine = (
            ray_engine(number, threads)
            if pays_off(number, work_seconds())
            else inline_engine(threads)
        )
        return engine.open(client_app, num_clients, node_config, work_seconds)

    return Engine("auto", open_)
