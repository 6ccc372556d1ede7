"""A node that keeps a ledger: what the server sees of its images is the noisy update, whatever
happens in training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fedrobust.clients.app import app
from flwr.app import Context, Message, RecordDict

from fedrobust.errors import DataError, RunError
from fedrobust.evaluation.counts import Withheld
from fedrobust.runtime.client import handlers
from fedrobust.runtime.messages import records
from fedrobust.runtime.messages.evaluations import read_client_evaluation
from fedrobust.runtime.messages.sites import RECORD, SiteAssignment, assignment_record
from fedrobust.runtime.server.rule_strategy import ServerContext
from fedrobust.state import State, read
from tests.helpers import federations
from tests.helpers.site_errors import site_error
from tests.privacy.test_runs import DP

SECRET = "patient_0001"


@pytest.fixture
def server() -> ServerContext:
    return federations.build_server(*DP)


@pytest.fixture
def node(tmp_path: Path) -> dict[str, Any]:
    return {"partition-id": 0, "max-epsilon": 1e6, "privacy-ledger": str(tmp_path / "ledger")}


def lines(node: dict[str, Any]) -> list[dict[str, Any]]:
    path = Path(node["privacy-ledger"])
    return [json.loads(one) for one in path.read_text().splitlines()] if path.exists() else []


def order(server: ServerContext, state: State | None = None, **changes: object) -> Message:
    records.set_identity()
    record = records.state_record(state or read(server.model, server.layout))
    return Message(
        records.train_message(record, {**server.message_config(1), **changes}), 0, "train"
    )


def ask(message: Message, node: dict[str, Any]) -> Message:
    return app(message, Context(1, 0, node, RecordDict(), {}))


def answered(server: ServerContext, reply: Message) -> records.TrainReply:
    sizes = server.layout.num_parameters, server.layout.num_buffers
    return records.read_train_reply(reply.content, sizes)


def raises(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def nan_update(request: Any) -> Any:
    received = request.received
    spoilt = State(torch.full_like(received.parameters, torch.nan), received.buffers)
    return handlers._Update(spoilt, None, 9, {})


FAILURES = {
    "not finite": ("_make_update", raises(RunError(f"not finite in local training: {SECRET}"))),
    "an update that is not finite": ("_make_update", nan_update),
    "data that cannot be read": ("read_experiment", raises(DataError(SECRET))),
    "out of memory": ("_train", raises(MemoryError(SECRET))),
    "anything": ("_sanitise", raises(KeyError(SECRET))),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_the_update_of_a_client_that_learnt_nothing(
    name: str,
    server: ServerContext,
    node: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    start, honest = read(server.model, server.layout), answered(server, ask(order(server), node))
    monkeypatch.setattr(handlers, *FAILURES[name])
    monkeypatch.setattr(handlers, "secret_noise", torch.ones)
    reply = answered(
        server, ask(order(server), {**node, "privacy-ledger": node["privacy-ledger"] + "2"})
    )
    # 2 clip times the noise multiplier
    assert torch.equal(
        reply.state.parameters, torch.full_like(start.parameters, 0.1) + start.parameters
    )
    assert torch.equal(reply.state.buffers, start.buffers)
    said = (reply.num_examples, reply.metrics, reply.extras, reply.info)
    assert said == (honest.num_examples, honest.metrics, honest.extras, honest.info)
    assert caplog.records[-1].name == "fedrobust.site"
    assert name.startswith("an update") or SECRET in caplog.text


def test_the_order_is_entered_before_any_image_is_looked_at(
    server: ServerContext, node: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        handlers, "read_experiment", lambda *_: seen.append(len(lines(node))) or raises(OSError())()
    )
    ask(order(server), node)
    assert seen == [1]
    assert [(one["run"], one["round"]) for one in lines(node)] == [(1, 1)]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"etf-sha256": "0" * 64}, "message", "SHA-256"),
        ({"experiment": "{}"}, "settings", "is missing"),
        ({"experiment": "no json"}, "settings", "experiment: "),
        ({"state": State(torch.zeros(3), torch.zeros(3))}, "message", "expected the shape"),
    ],
)
def test_what_can_be_refused_costs_nothing(
    server: ServerContext,
    node: dict[str, Any],
    changes: dict[str, Any],
    code: str,
    words: str,
) -> None:
    with site_error(code, words):
        ask(order(server, **changes), node)
    assert lines(node) == []


def test_a_configuration_that_no_client_could_train_costs_nothing(node: dict[str, Any]) -> None:
    server = federations.build_server(*DP)
    config = {
        **server.experiment.config,
        "client": {**server.experiment.config["client"], "epochs": -1},
    }
    with site_error("settings", "client.epochs=-1"):
        ask(order(server, experiment=json.dumps(config)), node)
    assert lines(node) == []


def test_data_that_lack_what_the_server_asks_for_are_no_answer(node: dict[str, Any]) -> None:
    server = federations.build_server(*DP, "partition=remote")
    own = {**node, "data-root": "/nowhere.npz", "data-format": "npz"}
    message = order(server)
    told = SiteAssignment(0, 16, server.experiment.dataset.class_names)
    content = RecordDict({**message.content, RECORD: assignment_record(told)})
    reply = answered(server, ask(Message(content, 0, "train"), own))
    assert reply.num_examples == 1
    assert len(lines(node)) == 1


def test_an_evaluation_is_withheld_without_a_look_at_an_image(
    server: ServerContext, node: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "read_experiment", raises(AssertionError("looked")))
    reply = ask(Message(order(server).content, 0, "evaluate"), node)
    told, info = read_client_evaluation(reply.content, server.experiment.num_classes)
    assert told == Withheld("max-epsilon")
    assert info == answered(server, ask(order(server), node)).info
