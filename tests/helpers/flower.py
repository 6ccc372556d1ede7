"""A made-up Flower: nodes, and what can be pulled for a message."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from fedrobust.runtime.messages import records

NOWHERE = 1  # the SuperLink's own node id, from which Flower's own errors come
Answer = Callable[[Message], list[Message]]


class FakeFlower(Grid):
    """nodes: {node id: registered name}; answer(message) gives what can be pulled for it, at the
    first try."""

    def __init__(self, nodes: dict[int, str], answer: Answer) -> None:
        records.set_identity()
        self.nodes, self.answer = nodes, answer
        self.sent: dict[str, Message] = {}

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node, name=name) for node, name in self.nodes.items()]

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        asked = {
            f"id-{message.metadata.dst_node_id}-{len(self.sent)}": message for message in messages
        }
        self.sent |= asked
        return list(asked)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [reply for name in message_ids for reply in self.answer(self.sent[name])]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        raise AssertionError("waits three seconds between two looks")

    def create_message(self, *_: object, **__: object) -> Message:
        raise AssertionError("deprecated")

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> object:
        return None


def echo(message: Message) -> list[Message]:
    return [Message(message.content, reply_to=message)]
