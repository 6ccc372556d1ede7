"""The engine without processes."""

from types import SimpleNamespace

import pytest
import torch
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from fedrobust.errors import RunError
from fedrobust.runtime.engines import inline_grid
from fedrobust.runtime.engines.inline_grid import InlineGrid
from fedrobust.runtime.messages import records
from fedrobust.state import State
from tests.helpers.engine_messages import by_client, messages


def test_replies_come_in_order_one_by_one_with_the_clients_answer(client_app):
    with InlineGrid(client_app, 3, {"site": "north"}, threads=1) as grid:
        assert grid.get_node_ids() == [0, 1, 2]
        replies = list(grid.send_and_receive(messages([2, 0, 1])))
    assert [reply.metadata.src_node_id for reply in replies] == [2, 0, 1]
    good, bad = by_client(replies)
    assert not bad
    for client, reply in good.items():
        assert (reply.num_examples, reply.metrics["client"], reply.metrics["num-partitions"]) == (
            client + 1,
            client,
            3,
        )
        assert torch.equal(reply.state.buffers, torch.arange(5.0) + client)
        assert reply.info["site"] == "north"


def test_a_message_is_run_only_when_its_reply_is_asked_for():
    ran = []
    app = ClientApp()

    @app.train()
    def train(message, context):
        ran.append(context.node_id)
        return Message(RecordDict(), reply_to=message)

    with InlineGrid(app, 3) as grid:
        replies = grid.send_and_receive(messages([0, 1, 2]))
        next(replies)
        assert ran == [0]
        next(replies)
        assert ran == [0, 1]


def test_a_clients_state_lasts_from_round_to_round(client_app):
    with InlineGrid(client_app, 2) as grid:
        for round_number in (1, 2, 3):
            good, _ = by_client(grid.send_and_receive(messages([0, 1])))
            assert [good[client].metrics["calls"] for client in (0, 1)] == [
                round_number,
                round_number,
            ]
    with InlineGrid(client_app, 2) as grid:  # a new grid is a new federation
        assert by_client(grid.send_and_receive(messages([0])))[0][0].metrics["calls"] == 1


def test_a_failing_client_is_reported_with_its_traceback_and_the_others_go_on(client_app):
    with InlineGrid(client_app, 4) as grid:
        good, bad = by_client(grid.send_and_receive(messages(range(4), {1: "raise", 2: "leave"})))
    assert set(good) == {0, 3}
    assert "Traceback" in bad[1]
    assert "in misbehave" in bad[1]
    assert "ValueError: the scanner is broken" in bad[1]
    assert "SystemExit: 3" in bad[2]


def test_no_answer_an_unknown_client_and_an_unknown_action_are_error_replies(client_app):
    with InlineGrid(client_app, 2) as grid:
        (silent,) = grid.send_and_receive(messages([1], kind="train.empty"))
        (stranger,) = grid.send_and_receive(messages([2]))
        (unknown,) = grid.send_and_receive(messages([0], kind="evaluate"))
    assert silent.error.reason == "client 1 answered with NoneType instead of a Message"
    assert stranger.error.reason == "there is no client 2"
    assert "No evaluate function registered" in unknown.error.reason


def test_a_client_that_empties_its_message_takes_nothing_from_the_others(client_app):
    with InlineGrid(client_app, 2) as grid:
        sent = messages([0, 1], kind="train.empty")
        list(grid.send_and_receive(sent))
    assert set(sent[0].content["state"]) == {"parameters", "buffers"}
    assert sent[1].content["config"]["round"] == 1


def test_ctrl_c_passes_through_and_the_grid_closes(client_app):
    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt), InlineGrid(client_app, 2, threads=before + 1) as grid:
        list(grid.send_and_receive(messages([0, 1], {0: "interrupt"})))
    assert torch.get_num_threads() == before


def test_after_the_timeout_no_further_client_is_started(client_app, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(inline_grid, "time", clock)
    with InlineGrid(client_app, 3) as grid:
        replies = grid.send_and_receive(messages(range(3)), timeout=0.1)
        first = next(replies)
        clock.now = 0.1
        good, bad = by_client([first, *replies])
    assert set(good) == {0}
    assert bad[1] == "timed out after 0.1 s, before client 1 was started"
    assert set(bad) == {1, 2}


def test_threads_are_set_while_open_only(client_app):
    before = torch.get_num_threads()
    with InlineGrid(client_app, 1, threads=before + 1) as grid:
        assert (
            by_client(grid.send_and_receive(messages([0])))[0][0].metrics["threads"] == before + 1
        )
        with pytest.raises(RuntimeError, match="open already"):
            grid.__enter__()
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError, match="not open"):
        list(grid.send_and_receive(messages([0])))


def test_pushed_messages_are_answered_when_pulled_under_their_ids(client_app):
    with InlineGrid(client_app, 3) as grid:
        ids = grid.push_messages(messages([0, 1, 2]))
        assert len(set(ids)) == 3
        replies = list(grid.pull_messages(ids[1:]))
        assert [reply.metadata.reply_to_message_id for reply in replies] == ids[1:]
        assert [reply.metadata.src_node_id for reply in replies] == [1, 2]
        with pytest.raises(KeyError):
            grid.pull_messages(ids[1:2])  # each only once


def test_the_model_is_handed_over_without_a_copy(client_app):
    state = State(torch.zeros(300), torch.zeros(5))
    with InlineGrid(client_app, 1) as grid:
        (reply,) = grid.send_and_receive(messages([0], kind="query", state=state))
    assert (
        records.read_state(reply.content["state"], (300, 5)).parameters.data_ptr()
        == state.parameters.data_ptr()
    )


@pytest.mark.parametrize("name", ["no_such_hospital:app", "echo_hospital:nothing", "echo_hospital"])
def test_an_app_that_cannot_be_loaded_is_named(client_app, name):
    with pytest.raises(RunError, match=f"client app {name}: "):
        InlineGrid(name, 1)
