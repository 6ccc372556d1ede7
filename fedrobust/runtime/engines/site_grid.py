"""A real federation as a Grid of clients 0 ... N-1: its users need not know Flower's node
ids, nor who is connected just now."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, final

from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedrobust.errors import RunError
from fedrobust.runtime.engines.client_runner import NO_REPLY, NO_SUCH_NODE, error_answer
from fedrobust.runtime.engines.site_numbers import Node
from fedrobust.runtime.messages.arrays import WireError
from fedrobust.runtime.messages.sites import (
    RECORD,
    SiteAssignment,
    SiteInfo,
    assignment_record,
    read_site_info,
)
from fedrobust.runtime.messages.upload_limits import guard_uploads
from fedrobust.utils.counting import format_count
from fedrobust.utils.foreign_text import escape_text

POLL_SECONDS = 0.5
# how Flower writes what a ClientApp raised
RAISED = re.compile(r"<class '(?:\w+\.)*(\w+)'>:<'(.*)'>", re.DOTALL)


@final
class FederationGrid(Grid):  # type: ignore[misc]  # flwr is untyped here
    """Flower's Grid of SuperNodes, asked by client number.

    nodes: {client number: its node}. names: of all sites by client number; a site that is not
    connected yet, or again under another node id, is known by the name it is registered under.
    size, classes: part of each message to a site. numbered: whether the numbers are final. What
    clients remember lies at their nodes, so `states` is empty.
    """

    name = "flower"
    threads = 0  # each site decides for itself

    def __init__(
        self,
        grid: Grid,
        nodes: Mapping[int, Node],
        names: Sequence[str],
        *,
        size: int,
        classes: tuple[str, ...],
        numbered: bool = True,
    ) -> None:
        self._grid, self._nodes, self._names = grid, dict(nodes), tuple(names)
        self._size, self._classes, self._numbered = size, classes, numbered
        self.description = f"flower, sites: {len(names)}"

    @property
    def states(self) -> dict[int, RecordDict]:
        """Nothing: what a client remembers never leaves its site."""
        return {}

    def restore(self, states: Mapping[int, RecordDict]) -> None:
        """Nothing to give back."""

    def get_node_ids(self) -> list[int]:
        return list(range(len(self._names)))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Exactly one reply per message, yielded as it comes; `timeout` in seconds for all of them
        together, after which those still out become error replies. So does, at once, a message to a
        site that is not connected."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        online, asked = self._online(), list(messages)
        out = [message for message in asked if message.metadata.dst_node_id in online]
        for message in asked:
            if message.metadata.dst_node_id not in online:
                yield error_answer(message, f"{self._site(message)} is not connected", NO_SUCH_NODE)
        waiting = self._push(out, online, timeout)
        del asked, out
        while waiting and time.monotonic() < deadline:
            before = len(waiting)
            # one by one, so that the models of all sites need not fit into memory together
            for number in list(waiting):
                yield from self._answers(number, waiting)
            if len(waiting) == before:
                time.sleep(POLL_SECONDS)
        for message in waiting.values():
            yield error_answer(
                message, f"no reply of {self._site(message)} within {timeout:g} s", NO_REPLY
            )

    def _answers(self, number: str, waiting: dict[str, Message]) -> Iterator[Message]:
        """The reply to one message, if it is there; what Flower itself cannot decode is that site's
        failure, not the run's."""
        try:
            replies = list(self._grid.pull_messages([number]))
        except (ValueError, TypeError, LookupError, AttributeError, EOFError) as error:
            yield error_answer(
                waiting.pop(number),
                f"unusable reply: Flower cannot decode it ({type(error).__name__}: {error})",
                NO_REPLY,
            )
            return
        for reply in replies[:1]:
            yield _answer(waiting.pop(number), reply)

    def _site(self, message: Message) -> str:
        return f"site {self._names[message.metadata.dst_node_id]}"

    def _online(self) -> dict[int, int]:
        """{client number: node id} of the sites that are connected now."""
        registered = {info.node_id: info.name for info in self._grid.get_nodes()}
        by_name = {name: node for node, name in registered.items() if name}
        found = {client: node.id for client, node in self._nodes.items() if node.id in registered}
        return {
            client: by_name[name] for client, name in enumerate(self._names) if name in by_name
        } | found

    def _push(
        self, messages: Sequence[Message], online: Mapping[int, int], timeout: float | None
    ) -> dict[str, Message]:
        """{Flower's message id: the message}. Raises RunError where Flower did not take one."""
        if not messages:
            return {}
        addressed = [
            self._addressed(message, online[message.metadata.dst_node_id], timeout)
            for message in messages
        ]
        numbers = list(self._grid.push_messages(addressed))
        if len(numbers) != len(messages) or None in numbers:
            raise RunError(
                "the SuperLink did not take a message; its log says why (a limit of "
                "a proxy before it on the size of a body?)"
            )
        return dict(zip(numbers, messages, strict=True))

    def _addressed(self, message: Message, node: int, timeout: float | None) -> Message:
        client = message.metadata.dst_node_id
        order = SiteAssignment(client if self._numbered else -1, self._size, self._classes)
        content = RecordDict({**message.content, RECORD: assignment_record(order)})
        return Message(
            content,
            node,
            message.metadata.message_type,
            ttl=timeout,
            group_id=message.metadata.group_id,
        )

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        raise NotImplementedError("use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        raise NotImplementedError("use send_and_receive")

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
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        return self._grid.run


def _answer(asked: Message, reply: Message) -> Message:
    """The reply as that of the client that was asked: errors that Flower makes itself do not say
    whom they are about."""
    if reply.has_error():
        reason = str(reply.error.reason or "")
        raised = RAISED.fullmatch(reason.strip())
        return Message(
            Error(reply.error.code, f"{raised[1]}: {raised[2]}" if raised else reason),
            reply_to=asked,
        )
    return Message(reply.content, reply_to=asked)


def collect_site_info(
    grid: Grid, wanted: int, names: Collection[str], seconds: float, say: Callable[[str], None]
) -> list[Node]:
    """The connected nodes as soon as there are `wanted` of them or, where names are given, all of
    those names; after so many seconds those that there are."""
    deadline, told = time.monotonic() + seconds, ""
    while True:
        nodes = [Node(info.node_id, info.name) for info in grid.get_nodes()]
        there = sorted(node.registered for node in nodes if node.registered)
        if told != (
            told := f"connected: {len(nodes)} of {format_count(wanted, 'node')}"
            f"{': ' if there else ''}{', '.join(there)}"
        ):
            say(told)
        if time.monotonic() >= deadline or (
            set(names) <= set(there) if names else len(nodes) >= wanted
        ):
            return nodes
        time.sleep(POLL_SECONDS)


def ask(grid: FederationGrid, text: str, seconds: float) -> dict[int, SiteInfo | str]:
    """Each site's answer on its name and its images for this configuration, or the reason of a
    missing answer. An answer holds no arrays; what is larger than one can be is not fetched."""
    clients = grid.get_node_ids()
    content = RecordDict(
        {"config": ConfigRecord({"experiment": text, "round": 0, "etf": b"", "etf-sha256": ""})}
    )
    found: dict[int, SiteInfo | str] = {}
    with guard_uploads(most_bytes=0):
        for reply in grid.send_and_receive(
            [Message(content, client, MessageType.QUERY) for client in clients], timeout=seconds
        ):
            found[reply.metadata.src_node_id] = _site_info(reply)
    return found


def _site_info(reply: Message) -> SiteInfo | str:
    if reply.has_error():
        return escape_text(str(reply.error.reason))
    try:
        return read_site_info(reply.content)
    except WireError as error:
        return f"unusable answer: {error}"
