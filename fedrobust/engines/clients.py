"""The client side of both engines: whoever runs it, a client sees the same things and fails in the same way."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Mapping
from typing import Any, final

from flwr.app import Context, Error, Message, RecordDict

from fedrobust.errors import RunError

ClientApp = Callable[[Message, Context], Message]

# Flower's numbers for what went wrong (flwr.common.constant.ErrorCode).
RAISED, NO_REPLY, NO_SUCH_NODE, CRASHED = 2, 4, 5, 8


@final
class Clients:
    """The clients that live in this process, each with a Context that lasts from round to round.

    Client i is Flower's node i; its Context says {"partition-id": i, "num-partitions": N, **node_config}.
    """

    def __init__(self, app: str | ClientApp, num_clients: int, node_config: Mapping[str, Any]) -> None:
        self._app = load(app) if isinstance(app, str) else app
        self._num_clients, self._node_config = num_clients, dict(node_config)
        self._contexts: dict[int, Context] = {}

    def answer(self, message: Message) -> Message:
        """The client's reply; whatever it raises (Ctrl-C apart) becomes an error reply that holds its traceback."""
        client = message.metadata.dst_node_id
        try:
            reply = self._app(_own_copy(message), self._context(client))
        except (Exception, SystemExit):
            return failed(message, traceback.format_exc())
        if not isinstance(reply, Message):
            return failed(message, f"client {client} answered with {type(reply).__name__} instead of a Message", NO_REPLY)
        return reply

    def _context(self, client: int) -> Context:
        if client not in self._contexts:
            config = {"partition-id": client, "num-partitions": self._num_clients, **self._node_config}
            self._contexts[client] = Context(1, client, config, RecordDict(), {})
        return self._contexts[client]


def failed(message: Message, reason: str, code: int = RAISED) -> Message:
    """The error reply to a message."""
    return Message(Error(code, reason), reply_to=message)


def load(name: str) -> ClientApp:
    """The object behind "module:attribute"."""
    module, _, attribute = name.partition(":")
    try:
        app: ClientApp = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise RunError(f"client app {name}: {type(error).__name__}: {error}") from error
    return app


def _own_copy(message: Message) -> Message:
    """The message with records of its own (not arrays), so that a client that empties them takes nothing from the others."""
    content = RecordDict({name: record.copy() for name, record in message.content.items()})
    return Message(content=content, metadata=message.metadata)
