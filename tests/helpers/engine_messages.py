"""Messages for the engines' tests."""

import torch
from flwr.app import Message

from fedrobust.runtime.messages import records
from fedrobust.state import State

CONFIG = {"experiment": "{}", "round": 1, "etf": b"", "etf-sha256": ""}


def messages(clients, orders=None, kind="train", state=None):
    """One message per client, all with the same state record; orders: {client: what it shall do
    wrong}."""
    records.set_identity()
    state = state or State(torch.linspace(-1, 1, 300), torch.arange(5.0))
    record = records.state_record(state)
    config = {**CONFIG, **{f"client-{client}": order for client, order in (orders or {}).items()}}
    return [Message(records.train_message(record, config), client, kind) for client in clients]


def meeting(folder, *clients):
    """Orders for two clients that run at the same time, and so in two workers: each waits until the
    other one has begun. The folder must be new."""
    folder.mkdir()
    one, other = clients
    return {one: f"meet {folder} {one} {other}", other: f"meet {folder} {other} {one}"}


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
            good[client] = records.read_train_reply(reply.content, (300, 5))
    return good, bad
