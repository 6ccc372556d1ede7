"""Secure aggregation among those who do not keep to it: replies that are damaged or lie, and a
server that asks for what it must not."""

from __future__ import annotations

import pytest
import torch
from fedrobust.clients.app import app
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from torch import Tensor

from fedrobust import state
from fedrobust.errors import ConfigError, RunError
from fedrobust.privacy.secure.client import SEALED_BYTES, UnlikeTasksError
from fedrobust.runtime.messages import arrays, secure
from fedrobust.runtime.messages import records as wire
from fedrobust.runtime.server.loop import build_server_context
from tests.helpers import federations
from tests.helpers.site_errors import site_error
from tests.privacy.test_secure_runs import FIVE, PLAIN, SECURE, finished

# --- what arrives damaged ---


def swapped(content: RecordDict, **records: object) -> RecordDict:
    return RecordDict({**content, **records})


def table(clients_: list[int], text: bytes) -> ConfigRecord:
    return ConfigRecord({"clients": clients_, "bytes": text})


def values(vector: Tensor) -> ArrayRecord:
    return ArrayRecord({"values": Array(vector.numpy())})


BAD = {
    "keys of another": (
        "train.keys",
        lambda c: swapped(c, keys=table([0], bytes(64))),
        "are not those of the client that was asked",
    ),
    "short keys": (
        "train.keys",
        lambda c: swapped(c, keys=table([1], bytes(63))),
        "keys: expected 64 bytes for each of 1 client,",
    ),
    "no secret": (
        "train.keys",
        lambda c: swapped(c, keys=table([1], bytes(64))),
        "keys: a public key with which nothing stays secret",
    ),
    "one key twice": (
        "train.keys",
        lambda c: swapped(c, keys=table([1], c["keys"]["bytes"][:32] * 2)),
        "keys: one of them came before",
    ),
    "no keys": (
        "train.keys",
        lambda c: RecordDict({"info": c["info"]}),
        "message: expected the records info, keys",
    ),
    "shares too many": (
        "train.shares",
        lambda c: swapped(c, shares=table([0, 1, 2, 3, 4], bytes(SEALED_BYTES * 5))),
        "shares: expected those for 4",
    ),
    "shares in disorder": (
        "train.shares",
        lambda c: swapped(c, shares=table([2, 0, 3, 4], bytes(SEALED_BYTES * 4))),
        "in ascending order",
    ),
    "short vector": (
        "train",
        lambda c: swapped(c, masked=ArrayRecord({"values": Array(torch.zeros(3).long().numpy())})),
        "values: expected",
    ),
    "floats": (
        "train",
        lambda c: swapped(c, masked=ArrayRecord({"values": Array(torch.zeros(3).numpy())})),
        "values: expected int64",
    ),
    "a state": (
        "train",
        lambda c: RecordDict({"info": c["info"], "state": c["masked"]}),
        "message: expected the records info, masked",
    ),
    "another etf": (
        "train",
        lambda c: swapped(c, info=ConfigRecord({**c["info"], "etf-sha256": "x"})),
        "against another ETF",
    ),
    "a replay": (
        "train",
        lambda c: swapped(c, info=ConfigRecord({**c["info"], "task": "x masked"})),
        "a replay",
    ),
    "strangers' shares": (
        "train.unmask",
        lambda c: swapped(c, seeds=table([7], bytes(33))),
        "shares: of other clients than those",
    ),
    "numbers": (
        "train.unmask",
        lambda c: swapped(c, seeds=table([], b""), masks=ConfigRecord({"clients": [1]})),
        "a table named masks",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_reply_is_put_aside_with_its_reason_and_the_others_go_on(name: str) -> None:
    stage, spoil, reason = BAD[name]

    def answer(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if context.node_id == 1 and message.metadata.message_type == stage:
            return Message(spoil(reply.content), reply_to=message)
        return reply

    result, _ = finished((*SECURE, *FIVE, "rounds=1"), answer)
    (failure,) = result.records[1].failures
    assert failure.client == 1
    assert failure.reason.startswith("unusable reply: ")
    assert reason in failure.reason
    assert len(result.records[1].clients) == (5 if stage == "train.unmask" else 4)


@pytest.mark.parametrize(
    ("place", "why"),
    [(0, "the mean has the length"), (-1, "the weights of 5 sum to 115292150460684")],
)
def test_wrong_values_that_look_right_end_the_run_with_a_reason(place: int, why: str) -> None:
    def answer(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if context.node_id == 1 and message.metadata.message_type == "train":
            wrong = torch.from_numpy(reply.content["masked"]["values"].numpy())
            wrong[place] += 2**60
            return Message(
                secure.masked_reply(dict(reply.content["info"]), wrong), reply_to=message
            )
        return reply

    with pytest.raises(RunError, match=f"the sum is none of clipped updates.*{why}"):
        finished((*SECURE, *FIVE, "rounds=1"), answer)


# --- the app against a server that asks for what it must not ---


LETTERS = secure.table_record({1: bytes(SEALED_BYTES), 2: bytes(SEALED_BYTES)})


def asked(kind: str, number: int, **records: ConfigRecord) -> Message:
    return Message(RecordDict({**order_of(SECURE, number), **records}), 0, kind)


def order_of(words: tuple[str, ...], number: int = 1) -> RecordDict:
    """What the server of these words asks in a round, with the model that it announces."""
    server = build_server_context(federations.build_experiment(*words))
    config = {
        **server.message_config(number),
        wire.STATE_DIGEST: state.state_digest(server.initial),
    }
    return wire.train_message(wire.state_record(server.initial), config)


def test_the_app_refuses_training_without_the_stages_before_it() -> None:
    wire.set_identity()
    context = Context(
        1, 0, {"partition-id": 0, "num-partitions": 3, "simulation": True}, RecordDict(), {}
    )
    with pytest.raises(arrays.WireError, match="expected a table named shares"):
        app(asked("train", 1), context)
    with pytest.raises(RunError, match="a message of another round, run or model"):
        app(
            asked(
                "train",
                1,
                shares=secure.table_record({1: bytes(SEALED_BYTES), 2: bytes(SEALED_BYTES)}),
            ),
            context,
        )
    app(asked("train.keys", 2), context)
    for number in (1, 2):
        if number == 2:
            with pytest.raises(RunError, match="its keys were asked for after those of round 2"):
                app(asked("train.keys", number), context)
        with pytest.raises(RunError, match="refuses"):
            app(
                asked("train.unmask", number, survivors=secure.table_record({0: b"", 1: b""})),
                context,
            )


def test_on_a_real_site_keys_come_from_the_system_and_round_1_is_no_excuse() -> None:
    wire.set_identity()
    node = {"partition-id": 0, "num-partitions": 3}
    real, again, simulated = (
        Context(1, 0, {**node, **more}, RecordDict(), {}) for more in ({}, {}, {"simulation": True})
    )
    keys = [
        secure.read_table(app(asked("train.keys", 1), one).content, "keys", 64)[0]
        for one in (real, again, simulated)
    ]
    assert len(set(keys)) == 3
    with site_error("secure-aggregation", "a replay"):
        app(asked("train.keys", 1), real)
    assert (
        secure.read_table(app(asked("train.keys", 1), simulated).content, "keys", 64)[0] == keys[2]
    )


def test_a_message_of_the_protocol_under_another_configuration_is_refused() -> None:
    wire.set_identity()
    server = build_server_context(federations.build_experiment(*PLAIN))
    context = Context(
        1, 0, {"partition-id": 0, "num-partitions": 3, "simulation": True}, RecordDict(), {}
    )
    with pytest.raises(
        ConfigError, match="privacy=clipping: a message of privacy=secure_aggregation came"
    ):
        app(Message(secure.stage_message(server.message_config(1)), 0, "train.keys"), context)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            PLAIN,
            (
                "privacy=clipping: with sum-of-at-least=3 this node sends sums only; use "
                "privacy=secure_aggregation"
            ),
        ),
        (SECURE, "privacy.threshold=2: with sum-of-at-least=3 this node sends nothing; raise it"),
    ],
)
def test_a_hospital_that_insists_on_sums_of_so_many_sends_nothing_else(
    words: tuple[str, ...], line: str
) -> None:
    wire.set_identity()
    content = order_of(words)
    context = Context(
        1, 0, {"partition-id": 0, "num-partitions": 3, "sum-of-at-least": 3}, RecordDict(), {}
    )
    for kind in ("train", "train.keys") if words is SECURE else ("train",):
        with site_error("sums", f"^{line}"):
            app(Message(content, 0, kind), context)
    willing = Context(
        1, 0, {"partition-id": 0, "num-partitions": 3, "sum-of-at-least": 2}, RecordDict(), {}
    )
    if words is SECURE:
        assert "keys" in app(Message(content, 0, "train.keys"), willing).content
    for bad in (1, "3", True, 2.5):
        with site_error("node", r"^sum-of-at-least="):
            app(
                Message(content, 0, "train"),
                Context(1, 0, {**context.node_config, "sum-of-at-least": bad}, RecordDict(), {}),
            )


# --- a server that does not send all hospitals the same model ---


def test_different_models_for_hospitals_are_noticed_before_anything_is_sent() -> None:
    sent: list[str] = []

    def answer(message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        if context.node_id != 1 or not kind.startswith("train"):
            reply = app(message, context)
        else:  # such a server takes the reply for what it needs
            asked_alike = wire.task_digest(wire.read_config(message.content))
            _announce_another(message)
            reply = app(message, context)
            task = str(reply.content["info"]["task"]).split()
            reply.content["info"]["task"] = " ".join([asked_alike, *task[1:]])
        sent.append(kind)
        return reply

    with pytest.raises(RunError, match="for updates of different models"):
        finished((*SECURE, *FIVE, "rounds=1"), answer)
    assert set(sent) == {"train.keys", "train.shares"}


def _announce_another(message: Message) -> None:
    """Another model, with the digest that belongs to it."""
    other = state.State(torch.full((7,), 0.5), torch.zeros(2))
    message.content["config"][wire.STATE_DIGEST] = state.state_digest(other)
    if "state" in message.content:
        message.content["state"] = wire.state_record(other)


def test_the_model_must_be_the_one_that_was_announced_and_come_alone() -> None:
    wire.set_identity()
    content, node = order_of(SECURE), {"partition-id": 0, "num-partitions": 3, "simulation": True}

    def asking(**records: object) -> Message:
        return Message(RecordDict({**content, "shares": LETTERS, **records}), 0, "train")

    sizes = tuple(len(content["state"][name].numpy()) for name in ("parameters", "buffers"))
    other = wire.state_record(state.State(torch.zeros(sizes[0]), torch.zeros(sizes[1])))
    with pytest.raises(UnlikeTasksError, match="is not the one that was announced"):
        app(asking(state=other), Context(1, 0, node, RecordDict(), {}))
    with pytest.raises(UnlikeTasksError, match="extras came with the model"):
        app(asking(extras=ConfigRecord({"weight": 1.0})), Context(1, 0, node, RecordDict(), {}))
    silent = ConfigRecord(
        {key: value for key, value in content["config"].items() if key != wire.STATE_DIGEST}
    )
    with pytest.raises(arrays.WireError, match="state-sha256 of the model that is to come"):
        app(asking(config=silent), Context(1, 0, node, RecordDict(), {}))
