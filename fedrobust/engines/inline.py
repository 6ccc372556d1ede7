"""The engine without processes: clients run one after the other where the server runs. Debuggable, no start-up, no copies."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, final

import torch
from flwr.app import Message

from fedrobust.engines.clients import NO_REPLY, NO_SUCH_NODE, ClientApp, Clients, failed
from fedrobust.engines.local import LocalGrid


@final
class InlineGrid(LocalGrid):
    """Runs each message in this process when its reply is asked for; models are handed over without a copy.

    threads: torch threads while the grid is open (None: as they are). A client that hangs cannot be interrupted here;
    a `timeout` only keeps further clients from being started.
    """

    name = "inline"

    def __init__(
        self, client_app: str | ClientApp, num_clients: int, node_config: Mapping[str, Any] | None = None, threads: int | None = None
    ) -> None:
        super().__init__(num_clients)
        self._clients = Clients(client_app, num_clients, node_config or {})
        self._threads = threads or torch.get_num_threads()
        self._threads_before: int | None = None
        self.description = f"inline, threads: {self._threads}"

    def __enter__(self) -> Self:
        if self._threads_before is not None:
            raise RuntimeError("this grid is open already")
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        return self

    def close(self) -> None:
        if self._threads_before is not None:
            torch.set_num_threads(self._threads_before)
            self._threads_before = None

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        start = time.monotonic()
        for message in messages:
            if self._threads_before is None:
                raise RuntimeError("this grid is not open")
            client = message.metadata.dst_node_id
            if not 0 <= client < self._num_clients:
                yield failed(message, f"there is no client {client}", NO_SUCH_NODE)
            elif timeout is not None and time.monotonic() - start >= timeout:
                yield failed(message, f"timed out after {timeout:g} s, before client {client} was started", NO_REPLY)
            else:
                yield self._clients.answer(message)
