"""Where the clients run: in this process, or in Ray's workers on this machine or a cluster; one app, the same messages.

Equal seeds give bit-equal results on both on a CPU, provided that torch uses the same number of threads: give the same
`engine.threads` to both (by default inline uses all cores and each of W workers cores // W).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fedrobust import checks
from fedrobust.engines.clients import ClientApp
from fedrobust.engines.inline import InlineGrid
from fedrobust.engines.local import LocalGrid


class Open(Protocol):
    """Makes the Grid, to be used in a `with`, of a client app "module:attribute" for clients 0 ... num_clients - 1.

    node_config: what each client finds in its Context besides its partition-id and num-partitions.
    work_seconds: an estimate of all the clients' work of the run in one process, by which `auto` decides.
    """

    def __call__(
        self, client_app: str, num_clients: int, node_config: Mapping[str, Any] | None = None, work_seconds: float = math.inf
    ) -> LocalGrid: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """A chosen way to run the clients; the Grid it opens has `name` ("inline" or "ray") and `description`."""

    name: str
    open: Open


def inline_engine(threads: int | None = None) -> Engine:
    """One client after the other in this process. threads: of torch (null: one per core)."""
    _check_threads(threads)

    def open_(
        client_app: str | ClientApp, num_clients: int, node_config: Mapping[str, Any] | None = None, work_seconds: float = math.inf
    ) -> LocalGrid:
        return InlineGrid(client_app, num_clients, node_config, threads or cores())

    return Engine("inline", open_)


def cores() -> int:
    """The CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_threads(threads: int | None) -> None:
    if threads is not None:
        checks.number("engine.threads", threads, 1, integer=True)
