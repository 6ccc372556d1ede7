"""The adapter between Flower and the rules: what it makes of good, bad, missing and late
replies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.errors import RunError
from fedrobust.learning import batchnorm
from fedrobust.runtime.messages import records
from fedrobust.runtime.server.replies import ReplyValidator, failure
from fedrobust.runtime.server.rule_strategy import RuleStrategy, ServerContext
from fedrobust.state import State, load, read
from fedrobust.types import Failure
from fedrobust.utils import nested
from tests.helpers import federations
from tests.helpers.federations import MEAN, FakeGrid, error_reply, honest, reply_with, trained

TOLERANT = (*MEAN, "server.max_failures=2")


def one_round(strategy: RuleStrategy, grid: FakeGrid, number: int = 1) -> None:
    messages = strategy.configure_train(
        number, records.state_record(strategy.state), ConfigRecord(), grid
    )
    strategy.aggregate_train(number, grid.send_and_receive(messages))


def with_rule(server: ServerContext, rule, **keywords) -> ServerContext:
    return replace(
        server, experiment=replace(server.experiment, strategy=Strategy("spy", rule, **keywords))
    )


def spoilt(server: ServerContext, wrong):
    """Everybody is honest but client 1, whose reply `wrong(message)` makes."""
    answer = honest(server)
    return lambda message: wrong(message) if message.metadata.dst_node_id == 1 else answer(message)


def test_the_mean_of_the_replies_by_hand() -> None:
    server = federations.build_server(*MEAN)
    strategy = federations.build_strategy(server)
    before = strategy.state
    one_round(strategy, FakeGrid(3, honest(server)))
    states = [trained(server.layout, before, client) for client in range(3)]
    # honest clients claim 10, 20 and 30 images: shares 1/6, 2/6, 3/6
    expected = sum(
        share / 6 * state.parameters.double()
        for share, state in zip((1, 2, 3), states, strict=True)
    )
    assert torch.allclose(strategy.state.parameters.double(), expected, atol=1e-6)
    assert [one.weight for one in strategy.outcome.clients] == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert [(one.client, one.num_examples, one.metrics) for one in strategy.outcome.clients] == [
        (client, 10 * (client + 1), {"loss": 1.0}) for client in range(3)
    ]
    assert strategy.outcome.failures == ()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_the_order_of_replies_changes_no_bit(order: tuple[int, ...]) -> None:
    server = federations.build_server(*MEAN)
    states = []
    for permute in (list, lambda replies: [replies[place] for place in order]):
        strategy = federations.build_strategy(server)
        one_round(strategy, FakeGrid(3, honest(server), permute))
        states.append(strategy.state)
    assert torch.equal(states[0].parameters, states[1].parameters)
    assert torch.equal(states[0].buffers, states[1].buffers)


def test_the_message_holds_all_a_client_needs_and_one_shared_state() -> None:
    server = federations.build_server(*MEAN)
    strategy = federations.build_strategy(server)
    grid = FakeGrid(3, honest(server))
    one_round(strategy, grid, 4)
    config = records.read_config(grid.sent[2].content)
    assert (config["experiment"], config["round"]) == (server.experiment.text, 4)
    assert (config["etf"], config["etf-sha256"]) == (server.etf_bytes, server.etf_sha256)
    assert server.etf_sha256
    assert (
        grid.sent[0].content["state"]["parameters"].vector
        is grid.sent[2].content["state"]["parameters"].vector
    )


def test_a_linear_head_has_no_etf() -> None:
    server = federations.build_server(*MEAN, "model.head=linear", "client.loss=cross_entropy")
    assert (server.etf_bytes, server.etf_sha256) == (b"", "")
    one_round(federations.build_strategy(server), FakeGrid(3, honest(server)))


def bad_replies(server: ServerContext) -> dict[str, tuple]:
    state = read(server.model, server.layout)
    nan = State(
        state.parameters.clone().index_fill_(0, torch.tensor([3]), torch.nan), state.buffers
    )
    short = State(state.parameters[:-1], state.buffers)
    infinite = State(state.parameters, torch.full_like(state.buffers, torch.inf))
    traceback = "Traceback (most recent call last):\n  File x\nValueError: the scanner is broken"
    return {
        "raises": (lambda m: error_reply(m, traceback), "ValueError: the scanner is broken"),
        "silent": (lambda m: error_reply(m, ""), "the client failed without saying why"),
        "nan": (
            lambda m: reply_with(server, m, nan),
            "unusable reply: state: parameters holds values that are not finite",
        ),
        "infinite": (
            lambda m: reply_with(server, m, infinite),
            "state: buffers holds values that are not finite",
        ),
        "short": (
            lambda m: reply_with(server, m, short),
            "unusable reply: parameters: expected the shape",
        ),
        "no images": (
            lambda m: reply_with(server, m, state, 0),
            "num-examples must be a whole number of at least 1",
        ),
        "another etf": (
            lambda m: reply_with(server, m, state, sha256="00"),
            "unusable reply: trained against another ETF",
        ),
        "empty": (
            lambda m: Message(RecordDict(), reply_to=m),
            "message: expected the records info, metrics, state, got nothing",
        ),
        "never": (lambda m: [], "no reply within 3600 s"),
    }


@pytest.mark.parametrize(
    "kind",
    ["raises", "silent", "nan", "infinite", "short", "no images", "another etf", "empty", "never"],
)
def test_a_bad_reply_is_a_failure_with_its_reason_and_the_others_go_on(kind: str) -> None:
    server = federations.build_server(*TOLERANT)
    wrong, reason = bad_replies(server)[kind]
    strategy = federations.build_strategy(server)
    before = strategy.state
    one_round(strategy, FakeGrid(3, spoilt(server, wrong)))
    (failed,) = strategy.outcome.failures
    assert failed.client == 1
    assert reason in failed.reason
    assert "\n" not in failed.reason
    assert ("Traceback" in failed.traceback) == (kind == "raises")
    assert [one.client for one in strategy.outcome.clients] == [0, 2]
    # 10 and 30 images are left: shares 1/4 and 3/4
    zero, two = (trained(server.layout, before, client).parameters.double() for client in (0, 2))
    assert torch.allclose(strategy.state.parameters.double(), zero / 4 + 3 * two / 4, atol=1e-6)


@pytest.mark.parametrize("kind", ["raises", "nan", "never"])
def test_more_failures_than_allowed_end_the_round(kind: str) -> None:
    server = federations.build_server(*MEAN)
    wrong, reason = bad_replies(server)[kind]
    strategy = federations.build_strategy(server)
    before = strategy.state
    with pytest.raises(
        RunError, match=r"^round 1: 1 client failed, server\.max_failures=0 \(client 1: "
    ) as error:
        one_round(strategy, FakeGrid(3, spoilt(server, wrong)))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert [one.client for one in strategy.outcome.failures] == [1]
    assert strategy.state is before


def test_too_few_replies_for_the_rule() -> None:
    server = with_rule(
        federations.build_server(*TOLERANT),
        lambda round: pytest.fail("the rule was called"),
        min_clients=3,
    )
    strategy = federations.build_strategy(server)
    with pytest.raises(
        RunError, match=r"round 1: 2 usable replies, strategy=spy needs 3 \(client 1: "
    ):
        one_round(strategy, FakeGrid(3, spoilt(server, lambda m: [])))
    assert [one.client for one in strategy.outcome.failures] == [1]


@pytest.mark.parametrize("second", ["good", "bad"])
def test_of_two_replies_the_first_counts(second: str) -> None:
    server = federations.build_server(*MEAN)
    alone, twice = federations.build_strategy(server), federations.build_strategy(server)
    one_round(alone, FakeGrid(3, honest(server)))

    def answer(message: Message) -> list[Message]:
        other = read(server.model, server.layout)
        later = (
            reply_with(server, message, other, 999)
            if second == "good"
            else error_reply(message, "late trouble")
        )
        return [honest(server)(message), later]

    one_round(twice, FakeGrid(3, answer))
    assert torch.equal(alone.state.parameters, twice.state.parameters)
    assert alone.outcome.clients == twice.outcome.clients
    # noted, but max_failures=0 holds: no client was lost by it
    aside = "a second reply to the same message; put aside"
    assert twice.outcome.failures == tuple(
        Failure(client, aside, counts=False) for client in range(3)
    )


def test_a_failed_client_cannot_come_back_in_the_same_round() -> None:
    server = federations.build_server(*TOLERANT)
    strategy = federations.build_strategy(server)
    one_round(
        strategy,
        FakeGrid(3, spoilt(server, lambda m: [error_reply(m, "trouble"), honest(server)(m)])),
    )
    assert [one.client for one in strategy.outcome.clients] == [0, 2]
    assert [(one.client, one.counts) for one in strategy.outcome.failures] == [
        (1, True),
        (1, False),
    ]


def test_a_reply_from_a_node_that_was_not_asked_is_put_aside_and_noted() -> None:
    server = federations.build_server(*MEAN)
    alone, visited = federations.build_strategy(server), federations.build_strategy(server)
    one_round(alone, FakeGrid(3, honest(server)))

    def answer(message: Message) -> list[Message]:
        stranger = Message(RecordDict(), 7, "train")
        return [
            honest(server)(message),
            reply_with(server, stranger, read(server.model, server.layout)),
        ]

    one_round(visited, FakeGrid(3, answer))
    assert visited.outcome.failures == (
        Failure(-1, "node 7 replied without having been asked; put aside", counts=False),
    )
    assert visited.outcome.clients == alone.outcome.clients
    assert torch.equal(visited.state.parameters, alone.state.parameters)


def test_a_round_without_any_reply_ends_the_run_even_where_all_may_fail() -> None:
    server = federations.build_server(*MEAN, "server.max_failures=3")
    with pytest.raises(RunError, match="0 usable replies, strategy=fedavg needs 1"):
        one_round(federations.build_strategy(server), FakeGrid(3, lambda m: []))


@pytest.mark.parametrize("part", ["parameters", "buffers"])
def test_a_rule_that_gives_nan_ends_the_run_and_leaves_the_state(part: str) -> None:
    def rule(round: Round) -> Aggregate:
        good = make_aggregate(
            round,
            round.updates.combine(torch.ones(len(round.updates)) / 2),
            torch.ones(len(round.updates)),
        )
        return replace(
            good,
            state=replace(
                good.state, **{part: torch.full_like(getattr(good.state, part), torch.nan)}
            ),
        )

    server = with_rule(federations.build_server(*TOLERANT), rule)
    strategy = federations.build_strategy(server)
    before = strategy.state
    with pytest.raises(
        RunError,
        match="round 3: strategy=spy produced a global model with values that are not finite",
    ):
        one_round(strategy, FakeGrid(3, spoilt(server, lambda m: error_reply(m, "gone"))), 3)
    assert strategy.state is before
    assert [one.reason for one in strategy.outcome.failures] == ["gone"]


def test_a_rule_that_ends_the_run_leaves_this_round_s_failures_not_the_last_one_s() -> None:
    def rule(round: Round) -> Aggregate:
        if round.number == 2:
            raise RunError("nobody is trusted")
        return make_aggregate(
            round, torch.zeros(round.updates.matrix_ND.shape[1]), torch.ones(len(round.updates))
        )

    server = with_rule(federations.build_server(*TOLERANT), rule)
    strategy = federations.build_strategy(server)
    one_round(strategy, FakeGrid(3, spoilt(server, lambda m: error_reply(m, "first"))), 1)
    with pytest.raises(RunError, match="nobody is trusted"):
        one_round(strategy, FakeGrid(3, spoilt(server, lambda m: error_reply(m, "second"))), 2)
    assert [one.reason for one in strategy.outcome.failures] == ["second"]
    assert strategy.outcome.clients == ()


@pytest.mark.parametrize(
    "uses", [frozenset(), frozenset({"root"}), frozenset({"proxy"}), frozenset({"root", "proxy"})]
)
def test_the_rule_sees_only_what_it_says_it_uses(uses: frozenset[str]) -> None:
    server = federations.build_server(*MEAN)
    assert len(server.root) == 7 * 4
    assert len(server.proxy) == 32
    data = with_rule(server, lambda round: None, uses=uses).data_for_rule()
    assert (data.root is not None, data.proxy is not None) == ("root" in uses, "proxy" in uses)


def test_images_that_the_server_has_not_are_none_not_empty() -> None:
    server = with_rule(
        federations.build_server(*MEAN, "server.proxy_images=0", "server.root_per_class=0"),
        lambda round: None,
        uses=frozenset({"root", "proxy"}),
    )
    assert (server.data_for_rule().root, server.data_for_rule().proxy) == (None, None)


def test_memory_extras_and_generator_of_the_rule() -> None:
    seen = []

    def rule(round: Round) -> Aggregate:
        seen.append(
            (round.number, dict(round.memory), torch.rand(1, generator=round.generator).item())
        )
        n = len(round.updates)
        extras = {"trust": [0.5] * n, "distance": 2}
        update = torch.zeros(round.updates.matrix_ND.shape[1])
        return make_aggregate(
            round, update, torch.ones(n), extras=extras, memory={"rounds": round.number}
        )

    server = with_rule(federations.build_server(*MEAN), rule)
    strategy = federations.build_strategy(server)
    for number in (1, 2):
        one_round(strategy, FakeGrid(3, honest(server)), number)
    assert [(number, memory) for number, memory, _ in seen] == [(1, {}), (2, {"rounds": 1})]
    expected = [
        torch.rand(1, generator=server.experiment.generator("server", number)).item()
        for number in (1, 2)
    ]
    assert [drawn for _, _, drawn in seen] == expected
    assert [one.extras for one in strategy.outcome.clients] == [{"trust": 0.5}] * 3
    assert strategy.outcome.extras == {"distance": 2.0}


def test_nothing_that_is_shared_is_changed() -> None:
    """States travel without copies: neither the reference nor what clients sent may be written
    to."""
    server = federations.build_server(
        "strategy.epochs=1"
    )  # etf_dml, recalibrate: the rule that does most
    strategy = federations.build_strategy(server)
    reference = strategy.state
    kept, replies = reference.parameters.clone(), []

    def answer(message: Message) -> Message:
        replies.append(honest(server)(message))
        return replies[-1]

    one_round(strategy, FakeGrid(3, answer))
    assert torch.equal(reference.parameters, kept)
    sizes = server.layout.num_parameters, server.layout.num_buffers
    for client, reply in enumerate(replies):
        sent, expected = (
            records.read_state(reply.content["state"], sizes),
            trained(server.layout, reference, client),
        )
        assert torch.equal(sent.parameters, expected.parameters)
        assert torch.equal(sent.buffers, expected.buffers)
    assert strategy.state.parameters.data_ptr() != reference.parameters.data_ptr()


def test_buffers_recalibrate_are_those_of_the_new_model_on_the_proxy_images() -> None:
    mean, recalibrated = (
        federations.build_server(*MEAN),
        federations.build_server("strategy=fedavg", "server.batchnorm=recalibrate"),
    )
    states = []
    for server in (mean, recalibrated):
        strategy = federations.build_strategy(server)
        one_round(strategy, FakeGrid(3, honest(server)))
        states.append(strategy.state)
    assert torch.equal(states[0].parameters, states[1].parameters)
    fresh = federations.build_server(*MEAN)
    load(fresh.model, fresh.layout, states[0])
    batchnorm.recalibrate(fresh.model, recalibrated.proxy.images)
    assert torch.equal(states[1].buffers, read(fresh.model, fresh.layout).buffers)
    assert not torch.equal(states[0].buffers, states[1].buffers)


@pytest.mark.parametrize(
    ("optimizer", "passes"),
    [
        # each of three members once, the aggregate, and the distilled model
        ("none", 5),
        # its step makes other parameters, whose statistics are taken anew
        ("fedavgm", 6),
    ],
)
def test_statistics_that_the_rule_has_taken_are_not_taken_again(
    optimizer: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = federations.build_server(
        "strategy.revert_if_worse=false", f"server_optimizer={optimizer}"
    )
    strategy, taken = federations.build_strategy(server), []
    recalibrate = batchnorm.recalibrate
    monkeypatch.setattr(
        batchnorm,
        "recalibrate",
        lambda model, images: (taken.append(len(images)), recalibrate(model, images))[1],
    )
    one_round(strategy, FakeGrid(3, honest(server)))
    assert taken == [len(server.proxy)] * passes
    load(server.model, server.layout, strategy.state)
    recalibrate(server.model, server.proxy.images)
    assert torch.equal(strategy.state.buffers, read(server.model, server.layout).buffers)


def test_flower_s_own_evaluation_gets_the_pooled_accuracy() -> None:
    server = federations.build_server(*MEAN)
    strategy = federations.build_strategy(server)
    sizes = [server.experiment.test_size(client) or 0 for client in range(3)]

    def answer(message: Message) -> Message:
        if message.metadata.dst_node_id == 2:
            return error_reply(message, "gone")
        labels = torch.zeros(sizes[message.metadata.dst_node_id], dtype=torch.int64)
        shares = torch.eye(7)[labels]
        if message.metadata.dst_node_id == 0:
            shares[0] = shares[0].roll(1)  # one image is taken for another class
        one = dict.fromkeys(("clean", "contaminated"), (shares, labels))
        return Message(
            records.evaluate_reply(one, {}, federations.info_of(message)), reply_to=message
        )

    grid = FakeGrid(3, answer)
    messages = strategy.configure_evaluate(
        1, records.state_record(strategy.state), ConfigRecord(), grid
    )
    result = strategy.aggregate_evaluate(1, grid.send_and_receive(messages))
    assert result["accuracy"] == pytest.approx(100 * (1 - 1 / (sizes[0] + sizes[1])))
    assert grid.sent[0].metadata.message_type == "evaluate"
    assert strategy.aggregate_evaluate(1, []) == MetricRecord({})


def test_the_reason_of_a_failure_is_the_last_line() -> None:
    message = Message(RecordDict(), 1, "train")
    assert failure(4, error_reply(message, "one line")).traceback == ""
    longer = failure(4, error_reply(message, "Traceback\n  File\nKeyError: 'x'\n"))
    assert (longer.client, longer.reason) == (4, "KeyError: 'x'")
    assert longer.traceback == "Traceback\n  File\nKeyError: 'x'"


def test_a_summary_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    federations.build_strategy(federations.build_server(*MEAN)).summary()
    assert "fedavg for 3 clients" in capsys.readouterr().out


SAMPLED = (*MEAN, "num_clients=6", "clients_per_round=3")


def test_a_sample_of_the_clients_is_asked_and_keeps_its_numbers() -> None:
    server = federations.build_server(*SAMPLED)
    strategy, asked = federations.build_strategy(server), []
    for number in range(1, 9):
        grid = FakeGrid(6, honest(server))
        before = strategy.state
        one_round(strategy, grid, number)
        asked.append([message.metadata.dst_node_id for message in grid.sent])
        assert (
            [one.client for one in strategy.outcome.clients]
            == asked[-1]
            == server.experiment.participants(number)
        )
        # honest clients claim 10 (c + 1) images, which count up to what they hold
        counts = {
            client: min(10 * (client + 1), server.experiment.num_examples(client))
            for client in asked[-1]
        }
        states = [
            (count / sum(counts.values()), trained(server.layout, before, client))
            for client, count in counts.items()
        ]
        expected = sum(share * state.parameters.double() for share, state in states)
        assert torch.allclose(strategy.state.parameters.double(), expected, atol=1e-6)
    assert all(len(set(one)) == 3 for one in asked)
    assert len({tuple(one) for one in asked}) > 1
    assert {client for one in asked for client in one} == set(range(6))


def test_everybody_is_asked_for_a_verdict() -> None:
    server = federations.build_server(*SAMPLED)
    strategy = federations.build_strategy(server)
    messages = strategy.configure_evaluate(
        1, records.state_record(strategy.state), ConfigRecord(), FakeGrid(6, honest(server))
    )
    assert [message.metadata.dst_node_id for message in messages] == list(range(6))


def test_a_failed_client_leaves_no_gap_and_the_memory_of_the_matrix_is_used_again() -> None:
    server = federations.build_server(*TOLERANT)
    strategy = federations.build_strategy(server)
    seen = []

    def rule(round: Round) -> Aggregate:
        seen.append(
            (
                round.updates.matrix_ND.data_ptr(),
                round.updates.clients,
                round.updates.matrix_ND.clone(),
            )
        )
        return make_aggregate(
            round, torch.zeros_like(round.reference.parameters), torch.ones(len(round.updates))
        )

    strategy = federations.build_strategy(with_rule(server, rule))
    before = strategy.state
    one_round(strategy, FakeGrid(3, spoilt(server, lambda message: error_reply(message, "gone"))))
    one_round(strategy, FakeGrid(3, honest(server)), 2)
    assert [clients for _, clients, _ in seen] == [(0, 2), (0, 1, 2)]
    assert seen[0][0] == seen[1][0]
    for row, client in enumerate((0, 2)):
        assert torch.equal(
            seen[0][2][row], trained(server.layout, before, client).parameters - before.parameters
        )


def test_a_matrix_above_the_budget_gives_the_same_model(tmp_path) -> None:
    states = []
    for room in ((), ("server.max_updates_mb=0", f"server.scratch_dir={tmp_path}")):
        server = federations.build_server(*MEAN, *room)
        strategy = federations.build_strategy(server)
        one_round(strategy, FakeGrid(3, honest(server)))
        states.append(strategy.state.parameters)
    assert torch.equal(*states)


def test_replies_are_filtered_once_in_either_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours and Flower's own, which hands over all arrived replies; both end with the same bits."""
    server, filtered = federations.build_server(*MEAN), []
    accept_first = ReplyValidator.accept_first
    monkeypatch.setattr(
        ReplyValidator,
        "accept_first",
        lambda self, replies: filtered.append(self) or accept_first(self, replies),
    )
    answer = honest(server)
    twice = lambda message: [answer(message), answer(message)]  # noqa: E731
    ours, theirs = federations.build_strategy(server), federations.build_strategy(server)
    for number in (1, 2):
        ours.aggregate(number, ours.request_training(number, FakeGrid(3, twice)))
    assert len(filtered) == len(set(map(id, filtered))) == 2
    theirs.start(FakeGrid(3, twice), records.state_record(theirs.state), num_rounds=2)
    assert len(filtered) == len(set(map(id, filtered))) == 2 + 4  # training, evaluation
    assert [one.client for one in theirs.outcome.failures] == [0, 1, 2]
    assert ours.outcome == theirs.outcome
    assert torch.equal(ours.state.parameters, theirs.state.parameters)
    assert torch.equal(ours.state.buffers, theirs.state.buffers)


def test_what_trainers_report_reaches_the_rule_and_its_words_the_clients() -> None:
    seen: list[Round] = []

    def rule(round: Round) -> Aggregate:
        seen.append(round)
        told = {client: {"noisy": client, "levels": torch.ones(2)} for client in (0, 2)}
        update = round.updates.row(0)
        return make_aggregate(round, update, torch.ones(3), memory={"own": 1}, messages=told)

    server = with_rule(federations.build_server(*MEAN), rule)
    strategy = federations.build_strategy(server)
    answer = honest(server)

    def reporting(message: Message) -> Message:
        reply = answer(message)
        if message.metadata.dst_node_id == 1:
            reply.content.update(records._extras_records({"losses": torch.tensor([1.0, 2.0])}))
        return reply

    grid = FakeGrid(3, reporting)
    one_round(strategy, grid)
    assert [set(one) for one in seen[0].reports] == [set(), {"losses"}, set()]
    assert seen[0].reports[1]["losses"].tolist() == [1.0, 2.0]
    assert [records.read_extras(one.content) for one in grid.sent] == [{}] * 3
    grid.sent.clear()
    one_round(strategy, grid, 2)
    found = [records.read_extras(one.content) for one in grid.sent]
    assert [one.get("noisy") for one in found] == [0, None, 2]
    assert found[2]["levels"].tolist() == [1.0, 1.0]
    # nothing of that is the rule's memory, and it is in a checkpoint's
    assert seen[1].memory == {"own": 1}
    copies = nested.unflatten(*nested.flatten(strategy.memory))
    assert set(copies) == {"own", "messages"}
