"""Messages for the engines' tests."""

import torch
from flwr.app import Message

from fedrobust import wire
from fedrobust.types import State

CONFIG = {"experiment": "{}", "round": 1, "etf": b"", "etf-sha256": ""}


def messages(clients, orders=None, kind="train", state=None):
    """One message per client, all with the same state record; orders: {client: what it shall do wrong}."""
    wire.set_identity()
    state = state or State(torch.linspace(-1, 1, 300), torch.arange(5.0))
    record = wire.state_record(state)
    config = {**CONFIG, **{f"client-{client}": order for client, order in (orders or {}).items()}}
    return [Message(wire.instruction(record, config), client, kind) for client in clients]


def by_client(replies):
    """Checked replies and the reasons of the failed ones, by client."""
    good, bad = {}, {}
    for reply in replies:
        client = reply.metadata.src_node_id
        assert client not in good
        assert client not in bad
        if reply.has_error():
            bad[client] = reply.error.reason
        else:
            good[client] = wire.read_train_reply(reply.content, (300, 5))
    return good, bad
