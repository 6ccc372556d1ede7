"""Clients' memory lies in the Grid: it can be read, put back, and survives their failures."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedrobust.runtime.engines.inline_grid import InlineGrid
from fedrobust.runtime.messages.arrays import FlatArray
from tests.helpers.engine_messages import by_client, messages


def test_states_are_those_of_clients_that_remember_something(client_app):
    with InlineGrid(client_app, 3) as grid:
        assert grid.states == {}
        list(grid.send_and_receive(messages([2, 0])))
        assert list(grid.states) == [0, 2]
        assert grid.states[2]["seen"]["calls"] == 1
        grid.states[2]["seen"]["calls"] = 9  # a snapshot: nothing happens to the client
        assert by_client(grid.send_and_receive(messages([2])))[0][2].metrics["calls"] == 2


def test_restored_states_go_on_where_they_were_read_and_forget_the_rest(client_app):
    with InlineGrid(client_app, 3) as first:
        list(first.send_and_receive(messages([0, 1])))
        kept = first.states
        list(first.send_and_receive(messages([0, 1, 2])))
        assert kept[0]["seen"]["calls"] == 1
    with InlineGrid(client_app, 3) as second:
        list(second.send_and_receive(messages([2])))
        second.restore(kept)
        good, _ = by_client(second.send_and_receive(messages(range(3))))
    assert [good[client].metrics["calls"] for client in range(3)] == [2, 2, 1]
    assert kept[0]["seen"]["calls"] == 1
    with pytest.raises(ValueError, match=r"there are no clients \[-1, 3\]"):
        second.restore({3: RecordDict(), 0: RecordDict(), -1: RecordDict()})


def test_a_client_that_fails_remembers_what_it_did_before():
    app = ClientApp()

    @app.train()
    def train(message, context):
        for name, record in (("numbers", MetricRecord({"losses": [0]})), ("arrays", ArrayRecord())):
            context.state.setdefault(name, record)
        context.state["numbers"]["losses"].append(1)
        context.state["arrays"]["own"] = FlatArray(np.ones(3))
        if message.content["config"]["client-0"] == "raise":
            raise ValueError
        return (
            Message(RecordDict(), reply_to=message)
            if message.content["config"]["client-0"] == "go"
            else None
        )

    @app.query()
    def forget(message, context):
        context.state.clear()
        return Message(RecordDict({"info": ConfigRecord()}), reply_to=message)

    with InlineGrid(app, 1) as grid:
        for order, losses in (
            ("raise", None),
            ("go", [0, 1]),
            ("raise", [0, 1]),
            ("silent", [0, 1]),
            ("go", [0, 1, 1]),
        ):
            list(grid.send_and_receive(messages([0], {0: order})))
            assert (grid.states[0]["numbers"]["losses"] if losses else grid.states) == (
                losses or {}
            )
        list(grid.send_and_receive(messages([0], kind="query")))
        assert grid.states == {}
