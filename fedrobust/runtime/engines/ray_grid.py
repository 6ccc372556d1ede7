"""The engine of many processes: clients run in Ray's workers, on the cores and GPUs of one machine
or of a cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, final

import ray
from flwr.app import Message

from fedrobust.runtime.engines.base import SimulationGrid
from fedrobust.runtime.engines.ray_cluster import Cluster, Worker, Workers, connect, disconnect
from fedrobust.runtime.engines.ray_pool import WorkerPool
from fedrobust.runtime.engines.ray_scheduler import MessageScheduler

OWN = Cluster()


@final
class RayGrid(SimulationGrid):
    """Any worker can answer for any client, since what a client remembers goes with its message
    (`exchange` shares them out).

    The arrays of a message go into Ray's memory once, however many messages share the record;
    replies come in the order of completion. A worker that dies, or that is still busy when
    `timeout` ends, is replaced. A message over which a worker died is given to another up to
    `retries` times, with what the client remembered before it, then it becomes an error reply.
    """

    name = "ray"

    def __init__(
        self,
        client_app: str,
        num_clients: int,
        workers: Workers,
        *,
        node_config: Mapping[str, Any] | None = None,
        cluster: Cluster = OWN,
        retries: int = 1,
    ) -> None:
        super().__init__(num_clients)
        self._app = (client_app, num_clients, dict(node_config or {}), workers.threads)
        self._workers, self._cluster = workers, cluster
        options = {
            "num_cpus": workers.cpus,
            "num_gpus": workers.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        self._worker = ray.remote(Worker).options(**options)
        self._pool, self._retries = WorkerPool(self._spawn), retries
        self._ours = False
        self.threads = workers.threads
        self.description = (
            f"ray, workers: {workers.number}, threads each: "
            f"{workers.threads}, GPUs each: {workers.gpus:g}"
        )

    def __enter__(self) -> Self:
        if self._pool:
            raise RuntimeError("this grid is open already")
        try:
            self._ours = connect(self._cluster, self._workers)
            self._pool.open(self._workers.number)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        self._pool.close()
        if self._ours:
            disconnect()
            self._ours = False

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        if not self._pool:
            raise RuntimeError("this grid is not open")
        yield from MessageScheduler(
            self._pool, self, self._num_clients, self._retries, timeout
        ).replies(messages)

    def _spawn(self, crash_file: str) -> Any:
        return self._worker.remote(*self._app, sys.path, crash_file=crash_file)
