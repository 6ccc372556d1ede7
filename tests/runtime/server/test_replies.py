"""Validation of replies: every kind of bad one is a failure with its reason, and nothing
else about the round changes."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from markupsafe import escape
from rich.console import Console

from fedrobust.reporting import html, records
from fedrobust.reporting.console import Display
from fedrobust.runtime.messages import arrays as messages_arrays
from fedrobust.runtime.messages import records as wire
from fedrobust.runtime.server import replies
from fedrobust.runtime.server.replies import failure
from fedrobust.runtime.server.rule_strategy import RuleStrategy, ServerContext
from fedrobust.state import views
from fedrobust.types import ClientRecord, Failure, RoundRecord
from fedrobust.utils.foreign_text import LINES
from tests.helpers import federations, reports
from tests.helpers.federations import (
    MEAN,
    FakeGrid,
    Memory,
    error_reply,
    honest,
    reply_with,
    trained,
)

MANIFEST = {"started_utc": "now", "config": {}}
TOLERANT = (*MEAN, "server.max_failures=1")


@pytest.fixture(scope="module")
def server() -> ServerContext:
    return federations.build_server(*TOLERANT)


def one_round(strategy: RuleStrategy, grid: FakeGrid, number: int = 1) -> None:
    strategy.aggregate(number, strategy.request_training(number, grid))


def reply_of(server: ServerContext, message: Message, client: int = 1) -> Message:
    """The honest reply of a client, whose content may be spoilt."""
    return reply_with(server, message, trained(server.layout, server.initial, client))


def with_records(server: ServerContext, message: Message, **changed) -> Message:
    content = RecordDict({**reply_of(server, message).content, **changed})
    return Message(content, reply_to=message)


def with_metrics(server: ServerContext, message: Message, **changed) -> Message:
    return with_records(
        server, message, metrics=MetricRecord({"num-examples": 5, "loss": 1.0, **changed})
    )


def with_info(server: ServerContext, message: Message, **changed) -> Message:
    return with_records(
        server, message, info=ConfigRecord({**federations.info_of(message), **changed})
    )


def negative_variance(server: ServerContext, message: Message) -> Message:
    state = trained(server.layout, server.initial, 1)
    buffers = state.buffers.clone()
    next(
        value
        for name, value in views(server.layout.buffers, buffers).items()
        if name.endswith("running_var")
    )[0] = -1e-3
    return reply_with(server, message, replace(state, buffers=buffers))


def replayed(server: ServerContext, message: Message, number: int) -> Message:
    """An honest reply to the same message of another round."""
    order = wire.read_config(message.content)
    earlier = wire.train_message(message.content["state"], {**order, "round": number})
    return Message(reply_of(server, Message(earlier, 1, "train")).content, reply_to=message)


def huge_claim(server: ServerContext, message: Message) -> Message:
    """A few bytes that say they are 10 GB."""
    content = reply_of(server, message).content
    arrays = dict(content["state"])
    arrays["parameters"] = Array(
        "float32", (2_500_000_000,), "numpy.ndarray", bytes(arrays["parameters"].data)[:200]
    )
    return Message(RecordDict({**content, "state": ArrayRecord(arrays)}), reply_to=message)


BAD = {
    "10 GB": (huge_claim, "parameters: expected the shape"),
    "variance": (negative_variance, "running_var is a variance below 0"),
    "replay": (
        lambda s, m: replayed(s, m, 7),
        ("answers another round or another configuration (a replay?)"),
    ),
    "no task": (
        lambda s, m: with_records(s, m, info=ConfigRecord({"etf-sha256": s.etf_sha256})),
        "answers another round",
    ),
    "no etf": (
        lambda s, m: with_records(s, m, info=ConfigRecord({"task": ""})),
        "etf-sha256 is missing",
    ),
    "list": (
        lambda s, m: with_info(s, m, more=[1, 2]),
        ("info: more must be a str, int, float or bytes"),
    ),
    "loss": (
        lambda s, m: with_metrics(s, m, loss=-0.1),
        ("loss must be a finite number in [0, 1e+30], got -0.1"),
    ),
    "correct": (
        lambda s, m: with_metrics(s, m, correct=1.01),
        ("correct must be a finite number in [0, 1"),
    ),
    "huge int": (
        lambda s, m: with_metrics(s, m, loss=10**400),
        ("loss must be a finite number in [0, 1e+30], got a number of more than 64"),
    ),
    "far": (lambda s, m: with_metrics(s, m, gain=-1e31), "gain must be a finite number"),
    "formula": (
        lambda s, m: with_metrics(s, m, **{"=cmd()": 1.0}),
        "'=cmd()' is no name for a metric",
    ),
    "line feed": (lambda s, m: with_metrics(s, m, **{"a\nb": 1.0}), "is no name for a metric"),
    "column": (lambda s, m: with_metrics(s, m, kind=1.0), "kind is a name of the server's own"),
    "server column": (
        lambda s, m: with_metrics(s, m, server_trust=1.0),
        ("server_trust is a name of the server's own"),
    ),
    "many": (
        lambda s, m: with_metrics(s, m, **{f"m{n}": 1.0 for n in range(99)}),
        ("metrics: holds 101 entries, more than 64"),
    ),
    "columns": (
        lambda s, m: with_metrics(s, m, **{f"m{n}": 1.0 for n in range(55)}),
        "metrics: 56 names from one client in a run, more than 16",
    ),
    "parameters": (
        lambda s, m: reply_with(s, m, replace(s.initial, parameters=s.initial.parameters + 3e38)),
        "state: parameters holds values beyond 1e+15",
    ),
    "no images": (
        lambda s, m: with_metrics(s, m, **{"num-examples": 0}),
        "num-examples must be a whole number of at least 1, got 0",
    ),
    "images": (
        lambda s, m: with_metrics(s, m, **{"num-examples": 2**60}),
        ("num-examples must be a whole number of at least 1"),
    ),
    "record": (
        lambda s, m: with_records(s, m, gift=ConfigRecord({})),
        ("expected the records info, metrics, state, got gift"),
    ),
    "kind": (
        lambda s, m: with_records(s, m, state=ConfigRecord({})),
        "expected a ArrayRecord named state",
    ),
    "bytes": (
        lambda s, m: with_info(s, m, more=bytes(1 << 21)),
        "besides state, more than 1048576",
    ),
    "tensors": (
        lambda s, m: with_records(
            s, m, **{"extra-tensors": ArrayRecord({"x": Array(torch.zeros(1 << 19))})}
        ),
        "besides state, more than 1048576",
    ),
    "twice": (
        lambda s, m: with_records(
            s,
            m,
            extras=ConfigRecord({"x": 1}),
            **{"extra-tensors": ArrayRecord({"x": Array(torch.zeros(2))})},
        ),
        "extras: x stands for a scalar and for a tensor",
    ),
    "blank": (lambda s, m: error_reply(m, " \n "), "the client failed without saying why"),
    "long": (lambda s, m: error_reply(m, "x" * 10**6), "xxx"),
    "nothing": (lambda s, m: nothing(m), "message: holds nothing"),
}


def nothing(message: Message) -> Message:
    """Flower can deliver this: a message object without content and without error."""
    reply = error_reply(message, "x")
    reply.__dict__["_error"] = None
    return reply


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_reply_is_quarantined_with_its_reason(server: ServerContext, kind: str) -> None:
    spoil, reason = BAD[kind]
    strategy, answer = federations.build_strategy(server), honest(server)
    one_round(
        strategy,
        FakeGrid(3, lambda m: spoil(server, m) if m.metadata.dst_node_id == 1 else answer(m)),
    )
    (failed,) = strategy.outcome.failures
    assert (failed.client, failed.counts) == (1, True)
    assert reason in failed.reason
    assert failed.reason.isprintable()
    assert len(failed.reason) <= 330
    assert [one.client for one in strategy.outcome.clients] == [0, 2]


def test_more_images_than_count_are_cut_down_and_noted(server: ServerContext) -> None:
    strict = federations.build_server(*MEAN, "server.max_examples=20")
    strategy = federations.build_strategy(strict)
    one_round(strategy, FakeGrid(3, honest(strict)))  # honest clients claim 10, 20 and 30
    assert [one.num_examples for one in strategy.outcome.clients] == [10, 20, 20]
    assert [one.weight for one in strategy.outcome.clients] == pytest.approx([0.2, 0.4, 0.4])
    assert strategy.outcome.failures == (
        Failure(
            2, "claims 30 training images, counted as 20 (server.max_examples=20)", counts=False
        ),
    )


def test_no_client_weighs_more_than_the_images_that_it_holds(server: ServerContext) -> None:
    """2^53 claimed images are those of the shard, which the server has shared out itself."""
    strategy, answer = federations.build_strategy(server), honest(server)

    def boast(message: Message) -> Message:
        if message.metadata.dst_node_id == 1:
            return with_metrics(server, message, **{"num-examples": 2**53})
        return answer(message)

    one_round(strategy, FakeGrid(3, boast))
    held = server.experiment.num_examples(1)
    assert [one.num_examples for one in strategy.outcome.clients] == [10, held, 30]
    assert strategy.outcome.clients[1].weight == pytest.approx(held / (40 + held))
    assert strategy.outcome.failures == (
        Failure(
            1,
            f"claims {2**53} training images, counted as {held} (all that it holds)",
            counts=False,
        ),
    )


def test_a_real_site_is_held_to_what_it_said_when_it_joined() -> None:
    remote = federations.build_server(*MEAN, "poisoned=0", "partition=remote")
    said = replace(remote.experiment, reported_sizes=(30, 12, 40), reported_test_sizes=(5, 5, None))
    server = replace(remote, experiment=said)
    strategy = federations.build_strategy(server)
    one_round(strategy, FakeGrid(3, honest(server)))  # honest clients claim 10, 20 and 30
    assert [one.num_examples for one in strategy.outcome.clients] == [10, 12, 30]
    (note,) = strategy.outcome.failures
    assert note.reason == ("claims 20 training images, counted as 12 (what it said when it joined)")
    asked = strategy.request_evaluation(1, FakeGrid(3, lambda m: federations.verdict(server, m)))
    read = [strategy.validator.read_evaluate(one) for one in asked]
    assert not any(isinstance(one, Failure) for one in read)
    more = replace(server, experiment=replace(said, reported_test_sizes=(6, 5, 1)))
    asked = strategy.request_evaluation(1, FakeGrid(3, lambda m: federations.verdict(more, m)))
    failed = strategy.validator.read_evaluate(next(asked))
    assert failed == Failure(0, "unusable reply: evaluated 6 test images, but has 5")


def test_names_of_metrics_are_few_over_a_whole_run(server: ServerContext) -> None:
    """Each new one is a column of clients.csv; one client's do not use up the others'."""
    strategy, answer = federations.build_strategy(server), honest(server)
    for number in range(1, 4):
        fresh = {f"round{number}_{n}": 1.0 for n in range(7)}
        one_round(
            strategy,
            FakeGrid(
                3,
                lambda m: (
                    with_metrics(server, m, **fresh)  # noqa: B023
                    if m.metadata.dst_node_id == 1
                    else answer(m)
                ),
            ),
            number,
        )
        assert [one.client for one in strategy.outcome.clients] == ([0, 1, 2], [0, 2])[number == 3]
    (failed,) = strategy.outcome.failures
    assert failed.reason.endswith("metrics: 22 names from one client in a run, more than 16")


def test_a_reply_to_another_message_is_put_aside(server: ServerContext) -> None:
    """A reply of another kind or under another id: Flower's ids are checked where it gives any."""

    def other_kind(message: Message) -> Message:
        return Message(
            reply_of(server, message).content, reply_to=Message(RecordDict(), 1, "evaluate")
        )

    def other_id(message: Message) -> Message:
        reply = reply_of(server, message)
        reply.metadata.__dict__["_reply_to_message_id"] = "an old one"
        return reply

    for spoil in (other_kind, other_id):
        strategy, answer = federations.build_strategy(server), honest(server)
        one_round(
            strategy,
            FakeGrid(3, lambda m: spoil(m) if m.metadata.dst_node_id == 1 else answer(m)),  # noqa: B023
        )
        late, aside = strategy.outcome.failures
        assert (late.client, late.counts, late.reason) == (1, True, "no reply within 3600 s")
        assert (aside.client, aside.counts) == (1, False)
        assert aside.reason == "a reply to another message than this round's; put aside"


def test_a_flood_of_stray_replies_is_noted_up_to_a_bound(server: ServerContext) -> None:
    strategy, answer = federations.build_strategy(server), honest(server)
    flood = [Message(RecordDict(), node, "train") for node in range(10, 1010)]
    one_round(
        strategy,
        FakeGrid(
            3, answer, lambda good: [*good, *(Message(RecordDict(), reply_to=one) for one in flood)]
        ),
    )
    assert len(strategy.outcome.failures) == replies.MOST_NOTES
    assert len(strategy.outcome.clients) == 3


def test_no_metric_can_write_over_a_column(server: ServerContext) -> None:
    """`COLUMNS` are those that clients.csv gives every client."""
    row = records.client_rows(
        "run", RoundRecord(1, {}, (ClientRecord(0, 1, 1.0, {}, {"trust": 1.0}),)), ["clean"]
    )[0]
    assert {name for name in row if not name.startswith("server_")} == replies.COLUMNS


def test_a_foreign_traceback_is_cut_and_printable() -> None:
    federations.wire.set_identity()
    message = Message(RecordDict(), 1, "train")
    long = failure(0, error_reply(message, "line\n" * 10**5 + "ValueError: \x1b[2J\u2028end"))
    assert long.reason == "ValueError: \\x1b[2J\\u2028end"
    assert len(long.traceback) <= LINES
    assert long.traceback.endswith(long.reason)
    lone = Message(Error(2, "bad \udcff byte\nValueError: \udcff"), reply_to=message)
    assert failure(0, lone).traceback.encode()  # can be written to a file
    assert failure(0, lone).reason == "ValueError: \\udcff"


HOSTILE = {
    "separators": 'Traceback\nboom \u2028{"run": "run", "round": 99} \x85 \x1c \r end',
    "html": "Traceback\n<script>alert(1)</script> '\"><img src=x onerror=alert(1)> {{7*7}}",
    "terminal": "Traceback\n\x1b]0;t\x07\x1b[2J\x9b31m \u202egnp.exe\u202c [red]x[/red] \x08",
    "long": "Traceback\n" + "A" * 5_000_000 + "\nlast",
    "surrogates": "Traceback\n\ud800 bad \udfff",
    "nul": "Traceback\n\x00\x00",
    "flower": "\u2066<class 'x'>:<'\u2029'>",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_error_text_is_harmless_wherever_it_goes(
    server: ServerContext, tmp_path: Path, text: str
) -> None:
    """One and the same escaped text on the screen, in rounds.jsonl and on the page; both files are
    read again."""
    strategy, answer = federations.build_strategy(server), honest(server)
    one_round(
        strategy,
        FakeGrid(3, lambda m: error_reply(m, text) if m.metadata.dst_node_id == 1 else answer(m)),
    )
    record = RoundRecord(1, {}, strategy.outcome.clients, strategy.outcome.failures)
    recorder, screen = records.Recorder(tmp_path, server.experiment.roles), io.StringIO()
    recorder.run_started("run", 1, 3)
    recorder.round_finished("run", record)
    with Display(Console(file=screen, width=80)) as display:
        display.round_finished("run", record)
    (found,) = records.read_rounds(tmp_path)
    assert found.failures == record.failures
    (failed,) = record.failures
    page = html.render(reports.typed(reports.report()), MANIFEST, {"run": [record]}, [], {})
    raw = (tmp_path / "rounds.jsonl").read_bytes().decode()
    assert raw.count("\n") == len(raw.splitlines()) == 1
    assert failed.reason in screen.getvalue()
    assert escape(failed.reason) in page
    for shown in (raw, screen.getvalue(), page):
        assert all(sign.isprintable() or sign == "\n" for sign in shown)
        assert len(shown) < 100_000
    assert "<img src=x" not in page


WRONG_SCORES = {
    "another etf": (
        lambda info: {**info, "etf-sha256": "00"},
        7,
        7,
        "evaluated against another ETF",
    ),
    "replay": (lambda info: {**info, "task": "00"}, 7, 7, "answers another round"),
    "rows": (
        lambda info: info,
        7,
        5,
        "evaluated different numbers of images: clean 7, contaminated 5",
    ),
}


@pytest.mark.parametrize("kind", WRONG_SCORES)
def test_bad_verdicts_are_failures(server: ServerContext, kind: str) -> None:
    change, clean, contaminated, reason = WRONG_SCORES[kind]
    shares, labels = torch.eye(7), torch.arange(7)

    def answer(message: Message) -> Message:
        if message.metadata.dst_node_id != 1:
            return federations.verdict(server, message)
        counts = {"clean": clean, "contaminated": contaminated}
        info = change(federations.info_of(message))
        parts = {name: (shares[:count], labels[:count]) for name, count in counts.items()}
        return Message(wire.evaluate_reply(parts, {}, info), reply_to=message)

    strategy = federations.build_strategy(server)
    verdicts = {
        strategy.validator.client_of(one): strategy.validator.read_evaluate(one)
        for one in strategy.request_evaluation(1, FakeGrid(3, answer))
    }
    assert reason in verdicts[1].reason
    assert set(verdicts[0]) == set(verdicts[2]) == {"clean", "contaminated"}


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    parts = {"clean": (torch.full((2, 7), 0.5), torch.tensor([0, 1]))}
    with pytest.raises(messages_arrays.WireError, match="must sum to 1 over the classes"):
        wire.read_evaluate_reply(wire.evaluate_reply(parts, {}, {"etf-sha256": ""}), 7)


def test_what_was_put_aside_is_shown_and_recorded(server: ServerContext, tmp_path) -> None:
    strategy, memory = federations.build_strategy(server), Memory()
    answer = honest(server)
    one_round(
        strategy,
        FakeGrid(3, lambda m: [answer(m), answer(m)] if m.metadata.dst_node_id == 2 else answer(m)),
    )
    record = RoundRecord(1, {}, strategy.outcome.clients, strategy.outcome.failures)
    memory.round_finished("run", record)
    recorder = records.Recorder(tmp_path, server.experiment.roles)
    recorder.run_started("run", 1, 3)
    recorder.round_finished("run", record)
    (found,) = records.read_rounds(tmp_path)
    reason = "a second reply to the same message; put aside"
    assert found.failures == (Failure(2, reason, counts=False),)
