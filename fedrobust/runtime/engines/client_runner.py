"""The client side of both engines: under each engine a client sees the same things and fails in the
same way."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, final

from flwr.app import Context, Error, Message, RecordDict

from fedrobust.errors import RunError
from fedrobust.runtime.engines.malloc import keep_freed_memory

ClientApp = Callable[[Message, Context], Message]

# Flower's numbers for what went wrong (flwr.common.constant.ErrorCode).
RAISED, NO_REPLY, NO_SUCH_NODE, CRASHED = 2, 4, 5, 8


class Answer(NamedTuple):
    """A client's reply, and all that it remembers from now on; None: as before."""

    reply: Message
    state: RecordDict | None = None


@final
class ClientRunner:
    """The clients, any of which can answer in this process: what they remember comes with the
    message and goes with the reply.

    Client i is Flower's node i; its Context says {"partition-id": i, "num-partitions": N,
    **node_config}.
    """

    def __init__(
        self, app: str | ClientApp, num_clients: int, node_config: Mapping[str, Any]
    ) -> None:
        keep_freed_memory()
        self._app = load_client_app(app) if isinstance(app, str) else app
        self._num_clients, self._node_config = num_clients, dict(node_config)

    def run(self, message: Message, state: RecordDict | None) -> Answer:
        """The client's reply to a message, given what the client remembers (None: nothing), which
        is not changed.

        Any exception of the client (Ctrl-C apart) becomes an error reply that holds its traceback,
        and nothing of it is remembered.
        """
        client = message.metadata.dst_node_id
        config = {"partition-id": client, "num-partitions": self._num_clients, **self._node_config}
        context = Context(1, client, config, own_copy(state or RecordDict()), {})
        try:
            reply = self._app(
                Message(content=own_copy(message.content), metadata=message.metadata), context
            )
        except (Exception, SystemExit):
            return Answer(error_answer(message, traceback.format_exc()))
        if not isinstance(reply, Message):
            return Answer(
                error_answer(
                    message,
                    f"client {client} answered with {type(reply).__name__} instead of a Message",
                    NO_REPLY,
                )
            )
        return Answer(
            reply, context.state if (context.state or state) and not reply.has_error() else None
        )


def error_answer(message: Message, reason: str, code: int = RAISED) -> Message:
    """The error reply to a message."""
    return Message(Error(code, reason), reply_to=message)


def load_client_app(name: str) -> ClientApp:
    """The object behind "module:attribute"."""
    module, _, attribute = name.partition(":")
    try:
        app: ClientApp = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise RunError(f"client app {name}: {type(error).__name__}: {error}") from error
    return app


def own_copy(records: RecordDict) -> RecordDict:
    """Records of their own (arrays are shared), so that emptying or filling them changes
    nothing elsewhere."""
    copies = RecordDict({name: record.copy() for name, record in records.items()})
    for record in copies.values():
        for key, value in record.items():
            if isinstance(value, list):
                record[key] = list(value)
    return copies
