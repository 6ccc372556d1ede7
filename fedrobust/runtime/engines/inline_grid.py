"""The engine without processes: clients run one after the other where the server runs. Debuggable,
no start-up, no copies."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, final

import torch
from flwr.app import Message

from fedrobust.runtime.engines.base import SimulationGrid
from fedrobust.runtime.engines.client_runner import (
    NO_REPLY,
    NO_SUCH_NODE,
    ClientApp,
    ClientRunner,
    error_answer,
)


@final
class InlineGrid(SimulationGrid):
    """Runs each message in this process when its reply is asked for; models are handed over without
    a copy.

    threads: of torch while a client works (None: unchanged); the server keeps its own, as it does
    beside Ray's workers, so that both engines compute the same bits. A client that hangs cannot be
    interrupted here; a `timeout` only keeps further clients from being started.
    """

    name = "inline"

    def __init__(
        self,
        client_app: str | ClientApp,
        num_clients: int,
        node_config: Mapping[str, Any] | None = None,
        threads: int | None = None,
    ) -> None:
        super().__init__(num_clients)
        self._clients = ClientRunner(client_app, num_clients, node_config or {})
        self.threads = threads or torch.get_num_threads()
        self._open = False
        self.description = f"inline, threads: {self.threads}"

    def __enter__(self) -> Self:
        if self._open:
            raise RuntimeError("this grid is open already")
        self._open = True
        return self

    def close(self) -> None:
        self._open = False

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        start = time.monotonic()
        for message in messages:
            if not self._open:
                raise RuntimeError("this grid is not open")
            client = message.metadata.dst_node_id
            if not 0 <= client < self._num_clients:
                yield error_answer(message, f"there is no client {client}", NO_SUCH_NODE)
            elif timeout is not None and time.monotonic() - start >= timeout:
                yield error_answer(
                    message,
                    f"timed out after {timeout:g} s, before client {client} was started",
                    NO_REPLY,
                )
            else:
                yield self._answer(message)

    def _answer(self, message: Message) -> Message:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            reply, state = self._clients.run(
                message, self.load_memory(message.metadata.dst_node_id)
            )
        finally:
            torch.set_num_threads(before)
        self.save_memory(message.metadata.dst_node_id, state)
        return reply
