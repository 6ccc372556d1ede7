"""Base of the simulation Grids: clients 0 ... N-1 on this machine or cluster, without any server
process of Flower."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from flwr.app import Message, Metadata, RecordDict
from flwr.serverapp import Grid

from fedrobust.runtime.engines.client_runner import own_copy
from fedrobust.runtime.messages.records import set_identity


class SimulationGrid(Grid):  # type: ignore[misc]  # flwr is untyped here
    """A Grid whose nodes are the clients themselves: node id = partition id. Open it with `with`.

    `name` is the engine's name, `description` says in words on what it runs, `threads` how many of
    torch each client has. Messages can be sent only while it is open.
    """

    name: str
    description: str
    threads: int

    def __init__(self, num_clients: int) -> None:
        set_identity()
        self._num_clients = num_clients
        self._states: dict[int, RecordDict] = {}
        self._pushed: dict[str, Message] = {}
        self._numbers = itertools.count(1)
        self._run: Any = None

    @abstractmethod
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Exactly one reply per message, yielded as it comes; `timeout` in seconds for all of them
        together.

        A generator, so that not all replies are held at once: use each and release it. Give one and
        the same ArrayRecord to all messages of a round. Messages that time out get error replies.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what was taken; closing twice does nothing."""

    @property
    def states(self) -> dict[int, RecordDict]:
        """The present memory of each client (its Context.state); clients that remember nothing are
        left out. Arrays are shared."""
        return {client: own_copy(state) for client, state in sorted(self._states.items())}

    def restore(self, states: Mapping[int, RecordDict]) -> None:
        """Let the clients remember this and nothing else, as read from `states` before. Not while
        replies are awaited.

        Raises ValueError for a client that does not exist.
        """
        if strangers := sorted(set(states) - set(range(self._num_clients))):
            raise ValueError(f"there are no clients {strangers}")
        self._states = {client: own_copy(state) for client, state in states.items() if state}

    def load_memory(self, client: int) -> RecordDict | None:
        """A client's memory (not to be changed), or None."""
        return self._states.get(client)

    def save_memory(self, client: int, state: RecordDict | None) -> None:
        """Keep what a client remembers after an answer; None: as before."""
        if state:
            self._states[client] = state
        elif state is not None:
            self._states.pop(client, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get_node_ids(self) -> list[int]:
        return list(range(self._num_clients))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Takes the messages in; the clients work on them when they are pulled."""
        named = {
            (name := f"message-{next(self._numbers)}"): _named(message, name)
            for message in messages
        }
        self._pushed |= named
        return list(named)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The replies to pushed messages, each once; waits for them. An unknown id raises
        KeyError."""
        return self.send_and_receive([self._pushed.pop(name) for name in message_ids])

    def create_message(
        self,
        content: Any,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def set_run(self, run: Any) -> None:
        self._run = run

    @property
    def run(self) -> Any:
        if self._run is None:
            raise RuntimeError("this grid belongs to no Flower run")
        return self._run


def _named(message: Message, name: str) -> Message:
    """The message under an id, which its reply will carry."""
    known = message.metadata
    fields = (
        "run_id",
        "src_node_id",
        "dst_node_id",
        "reply_to_message_id",
        "group_id",
        "created_at",
        "ttl",
        "message_type",
    )
    metadata = Metadata(message_id=name, **{field: getattr(known, field) for field in fields})
    return Message(content=message.content, metadata=metadata)
