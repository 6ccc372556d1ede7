"""The server loop over a Grid whose replies are made up, and over the real client app in
process."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import Message, RecordDict

from fedrobust.errors import RunError
from fedrobust.evaluation.metrics import classification_metrics
from fedrobust.experiment.experiment import Experiment
from fedrobust.reporting.predictions import Predictions, read_predictions
from fedrobust.reporting.records import Recorder, read_rounds
from fedrobust.reporting.report import Report
from fedrobust.runtime.engines.inline_grid import InlineGrid
from fedrobust.runtime.messages import records as wire
from fedrobust.runtime.server import clean_twin, run
from fedrobust.runtime.server.loop import (
    build_server_context,
    evaluate_clients,
    predict_global,
    run_rounds,
)
from fedrobust.state import State, read
from tests.helpers import federations
from tests.helpers.federations import MEAN, FakeGrid, Memory, error_reply, honest, verdict

CLIENTS = "fedrobust.clients.app:app"


def inline(num_clients: int = 3) -> InlineGrid:
    return InlineGrid(CLIENTS, num_clients, {"simulation": True}, threads=1)


def test_rounds_are_reported_in_order_from_the_untrained_model_on() -> None:
    server, memory = federations.build_server(*MEAN, "rounds=2"), Memory()
    untrained = read(server.model, server.layout)
    grid = FakeGrid(3, honest(server))
    finished = run_rounds(server, grid, memory)
    assert [one.number for one in finished.records] == [0, 1, 2]
    assert [record for _, record in memory.records] == list(finished.records)
    assert grid.timeouts == [3600.0, 3600.0]
    assert finished.records[0].clients == ()
    assert set(finished.records[0].seconds) == {"evaluate"}
    assert set(finished.records[2].seconds) == {"train", "aggregate", "evaluate"}
    assert all(seconds >= 0 for record in finished.records for seconds in record.seconds.values())
    assert finished.records[1].metrics["n"] == len(server.experiment.validation())
    assert not torch.equal(finished.state.parameters, untrained.parameters)
    assert memory.events[:3] == [
        ("run", "run", 2, 3),
        ("round", "run", 1),
        ("stage", "run", "train"),
    ]
    assert [event[3:] for event in memory.events if event[0] == "client"] == 2 * [
        (0, False),
        (1, False),
        (2, False),
    ]


def test_failures_are_recorded_round_by_round() -> None:
    server, memory = federations.build_server(*MEAN, "rounds=2", "server.max_failures=1"), Memory()

    def answer(message: Message) -> Message:
        first = wire.read_config(message.content)["round"] == 1
        return (
            error_reply(message, "Traceback\nOSError: disk")
            if first and message.metadata.dst_node_id == 2
            else honest(server)(message)
        )

    records = run_rounds(server, FakeGrid(3, answer), memory).records
    assert [(one.client, one.reason) for one in records[1].failures] == [(2, "OSError: disk")]
    assert (
        [one.client for one in records[1].clients],
        [one.client for one in records[2].clients],
    ) == ([0, 1], [0, 1, 2])
    assert records[2].failures == ()
    assert ("client", "run", "train", 2, True) in memory.events


def test_the_round_that_ends_a_run_is_recorded_with_the_tracebacks(tmp_path: Path) -> None:
    server = federations.build_server(*MEAN, "rounds=2")
    with pytest.raises(RunError, match="round 1: 3 clients failed"):
        run_rounds(
            server,
            FakeGrid(3, lambda m: error_reply(m, "Traceback\nOSError: disk")),
            Recorder(tmp_path, ["clean"] * 3),
        )
    untrained, ended = read_rounds(tmp_path)
    assert (untrained.number, ended.number, ended.metrics) == (0, 1, {})
    assert [one.traceback for one in ended.failures] == ["Traceback\nOSError: disk"] * 3


def test_a_model_that_has_run_away_ends_the_run_in_one_line() -> None:
    """Finite parameters can still answer with NaN: that is the run's failure, not a defect of
    ours."""
    server = federations.build_server(*MEAN)
    with pytest.raises(RunError, match="strategy=fedavg answers with values that are not finite"):
        run_rounds(server, FakeGrid(3, honest(server, scale=1e14)), Memory())


def test_two_servers_of_one_experiment_start_alike() -> None:
    one, two = federations.build_server(), build_server_context(federations.build_experiment())
    assert torch.equal(
        read(one.model, one.layout).parameters, read(two.model, two.layout).parameters
    )
    assert one.etf_sha256 == two.etf_sha256
    other = federations.build_server("seed=1")
    assert other.etf_sha256 != one.etf_sha256
    assert (len(one.root), len(one.proxy)) == (28, 32)


@pytest.mark.parametrize("buffers", ["mean", "local", "recalibrate"])
def test_a_real_run_repeats_bit_by_bit(buffers: str) -> None:
    states = []
    for _ in range(2):
        server = federations.build_server(
            "strategy=fedavg",
            f"server.batchnorm={buffers}",
            "rounds=2",
            "client=global_distillation",
            "client.steps=1",
        )
        with inline() as grid:
            states.append(run_rounds(server, grid, Memory()).state)
    assert torch.equal(states[0].parameters, states[1].parameters)
    assert torch.equal(states[0].buffers, states[1].buffers)


def test_a_second_run_on_one_grid_knows_nothing_of_the_first() -> None:
    """The clean twin shares the run's Grid, whose clients' Contexts last: neither memory nor
    BatchNorm statistics may cross over."""
    clean = ("strategy=fedavg", "server.batchnorm=local", "rounds=2", "poisoned=0")
    alone = federations.build_server(*clean)
    with inline() as grid:
        expected = run_rounds(alone, grid, Memory()).state
        again = run_rounds(federations.build_server(*clean), grid, Memory()).state
    poisoned = federations.build_server(*clean, "poisoned=3")
    with inline() as grid:
        damaged = run_rounds(poisoned, grid, Memory()).state
        before = evaluate_clients(poisoned, damaged, grid, Memory())
        after_it = run_rounds(federations.build_server(*clean), grid, Memory()).state
        after = evaluate_clients(poisoned, damaged, grid, Memory())
    for state in (again, after_it):
        assert torch.equal(state.parameters, expected.parameters)
        assert torch.equal(state.buffers, expected.buffers)
    # and the run's own statistics are still there
    assert torch.equal(before[0]["clean"][0], after[0]["clean"][0])


def scores_reply(
    message: Message,
    conditions: dict[str, torch.Tensor] | None = None,
    labels: torch.Tensor | None = None,
) -> Message:
    conditions = conditions or {"clean": torch.eye(7), "contaminated": torch.eye(7)}
    labels = torch.arange(7) if labels is None else labels
    predictions = {name: (part, labels) for name, part in conditions.items()}
    return Message(
        wire.evaluate_reply(predictions, {}, federations.info_of(message)), reply_to=message
    )


LABELS = torch.arange(7).repeat(99)
WRONG = {
    "error": (lambda m: error_reply(m, "Traceback\nOSError: disk"), "OSError: disk"),
    "never": (lambda m: [], "no reply"),
    "one condition": (
        lambda m: scores_reply(m, {"clean": torch.eye(7)}),
        "evaluated clean, not clean, contaminated",
    ),
    "classes": (
        lambda m: scores_reply(
            m, {"clean": torch.eye(6), "contaminated": torch.eye(6)}, torch.arange(6)
        ),
        "expected the shape",
    ),
    "no shares": (
        lambda m: scores_reply(m, {"clean": 5 * torch.eye(7), "contaminated": torch.eye(7)}),
        "must lie in [0, 1]",
    ),
    "nan": (
        lambda m: scores_reply(
            m, {"clean": torch.full((7, 7), torch.nan), "contaminated": torch.eye(7)}
        ),
        "not finite",
    ),
    "labels": (lambda m: scores_reply(m, labels=torch.arange(1, 8)), "class numbers in [0, 7)"),
    "none": (
        lambda m: scores_reply(
            m, dict.fromkeys(("clean", "contaminated"), torch.zeros(0, 7)), torch.arange(0)
        ),
        "num-examples must be a whole number of at least 1",
    ),
    "more": (
        lambda m: scores_reply(
            m, dict.fromkeys(("clean", "contaminated"), torch.eye(7).repeat(99, 1)), LABELS
        ),
        "evaluated 693 test images, but has 9",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_bad_scores_are_failures(kind: str) -> None:
    wrong, reason = WRONG[kind]
    server, memory = federations.build_server(*MEAN), Memory()
    answer = lambda m: wrong(m) if m.metadata.dst_node_id == 1 else verdict(server, m)  # noqa: E731
    state = read(server.model, server.layout)
    with pytest.raises(RunError, match=r"^evaluation: 1 client failed \(client 1: ") as error:
        evaluate_clients(server, state, FakeGrid(3, answer), memory)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert [one.client for one in memory.records[-1][1].failures] == [1]
    tolerant = federations.build_server(*MEAN, "server.max_failures=1")
    assert list(
        evaluate_clients(tolerant, state, FakeGrid(3, answer, lambda r: r[::-1]), Memory())
    ) == [0, 2]


def test_of_two_verdicts_of_one_client_the_first_counts() -> None:
    server = federations.build_server(*MEAN)
    state = read(server.model, server.layout)
    worse = {"clean": torch.eye(7).flip(0), "contaminated": torch.eye(7)}
    twice = evaluate_clients(
        server,
        state,
        FakeGrid(3, lambda m: [verdict(server, m), scores_reply(m, worse), error_reply(m, "x")]),
        Memory(),
    )
    shares, labels = twice[1]["clean"]
    assert torch.equal(shares.argmax(1), labels)


def test_probabilities_are_those_of_the_given_state() -> None:
    server = federations.build_server(*MEAN)
    samples = server.experiment.validation()
    state = read(server.model, server.layout)
    first = predict_global(server, state, samples)
    predict_global(server, State(state.parameters * 1.5 + 0.1, state.buffers), samples)
    assert torch.equal(predict_global(server, state, samples), first)
    assert torch.allclose(first.sum(1), torch.ones(len(samples)), atol=1e-5)


def test_the_twin_is_this_run_where_nobody_is_contaminated_and_cached_for_all_others(
    monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path))
    clean = federations.build_server(*MEAN, "poisoned=0")
    with inline() as grid:
        finished = run_rounds(clean, grid, Memory())
        twin = clean_twin.train_clean_twin(clean.experiment, finished, grid, Memory())
        assert twin.training is finished
        poisoned = federations.build_server(*MEAN, "poisoned=2")
        bad = run_rounds(poisoned, grid, Memory())
        assert not torch.equal(bad.state.parameters, finished.state.parameters)
        cached = clean_twin.train_clean_twin(
            poisoned.experiment, bad, FakeGrid(3, lambda m: pytest.fail("trained again")), Memory()
        ).training.state
        assert torch.equal(cached.parameters, finished.state.parameters)
        for path in (tmp_path / "twins").iterdir():
            path.unlink()
        first, second = Memory(), Memory()
        made = clean_twin.train_clean_twin(poisoned.experiment, bad, grid, first).training.state
        read_again = clean_twin.train_clean_twin(
            poisoned.experiment, bad, FakeGrid(3, lambda m: pytest.fail("trained again")), second
        ).training.state
    assert torch.equal(made.parameters, finished.state.parameters)  # the twin is the clean run
    assert torch.equal(read_again.parameters, made.parameters)
    assert torch.equal(read_again.buffers, made.buffers)
    assert second.records == first.records
    assert ("stage", "clean twin", "taken from the cache") in second.events


def test_a_twin_that_lost_a_client_is_not_kept(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path))
    poisoned = federations.build_server(*MEAN, "server.max_failures=1")
    finished = run_rounds(poisoned, FakeGrid(3, honest(poisoned)), Memory())
    answer = lambda m: (  # noqa: E731
        error_reply(m, "a bad moment") if m.metadata.dst_node_id == 0 else honest(poisoned)(m)
    )
    clean_twin.train_clean_twin(poisoned.experiment, finished, FakeGrid(3, answer), Memory())
    assert not list((tmp_path / "twins").glob("*")) if (tmp_path / "twins").exists() else True


def test_a_whole_run_writes_a_valid_report_even_when_a_client_s_verdict_is_missing(
    tmp_path: Path,
) -> None:
    experiment = federations.build_experiment(
        *MEAN,
        "server.max_failures=1",
        "evaluation.bootstrap_samples=20",
        "contamination=backdoor_patch",
    )

    class Grid(InlineGrid):
        def send_and_receive(self, messages, *, timeout=None):
            for reply in super().send_and_receive(messages, timeout=timeout):
                lost = reply.metadata.message_type == "evaluate" and reply.metadata.src_node_id == 0
                yield replace_content(reply) if lost else reply

    def replace_content(reply: Message) -> Message:
        return error_reply(Message(RecordDict(), 0, "evaluate"), "gone")

    with Grid(CLIENTS, 3, {"simulation": True}, threads=1) as grid:
        report, scores = run.run_experiment(
            build_server_context(experiment), grid, tmp_path, Memory(), "inline"
        )
    assert (tmp_path / "report.json").exists()
    assert (tmp_path / "model.safetensors").exists()
    assert sorted(scores.clients) == [1, 2]
    lost = report.clients[0]
    assert (lost.clean.n, lost.clean.accuracy, lost.combined_drop) == (0, None, None)
    graded = {f"corrupted_s{grade}" for grade in range(1, 6)}
    assert (
        set(report.evaluations) == {"clean", "corrupted", "twin_clean", "twin_corrupted"} | graded
    )
    assert set(report.drops.present) == {"poisoning", "corruption", "total", "clients"}
    assert 0 <= report.attack_success_rate <= 100
    stages = {"run", "twin", "final_evaluation", "train", "aggregate", "evaluate"}
    assert stages == set(report.timing)


def test_without_a_twin_its_drops_are_missing(tmp_path: Path) -> None:
    experiment = federations.build_experiment(
        *MEAN, "evaluation.bootstrap_samples=0", "evaluation.twin=false"
    )
    with inline() as grid:
        report, _ = run.run_experiment(
            build_server_context(experiment), grid, tmp_path, Memory(), "inline"
        )
    assert set(report.drops.present) == {"corruption", "clients"}
    _recompute(report, experiment, read_predictions(tmp_path))
    assert report.drops.corruption.ci95 is None
    assert report.poisoned == tuple(experiment.clients_of_kind("poisoned"))


def _recompute(report: Report, experiment: Experiment, found: Predictions) -> None:
    """The report's AUROC of all test images and of every client follow from predictions.npz."""
    assert report.evaluations["clean"].auroc == pytest.approx(
        classification_metrics(found.probabilities["clean"], found.labels)["auroc"], abs=1e-4
    )
    own = found.clients["clean"]
    assert torch.equal(found.labels[own.image], own.label)
    assert torch.unique(own.client).tolist() == list(range(experiment.num_clients))
    for client in report.clients:
        rows = own.client == client.id
        metrics = classification_metrics(own.probabilities[rows], own.label[rows])
        assert client.clean.n == metrics["n"]
        assert client.clean.auroc == pytest.approx(metrics["auroc"], abs=1e-4)


def test_an_experiment_is_not_changed_by_its_run() -> None:
    server = federations.build_server(*MEAN)
    config = dict(server.experiment.config)
    run_rounds(server, FakeGrid(3, honest(server)), Memory())
    assert server.experiment.config == config
    assert replace(server.experiment).text == federations.build_experiment(*MEAN).text


def test_the_untrained_state_is_not_kept_and_can_be_had_again() -> None:
    server = federations.build_server(*MEAN)
    first, again = server.initial, server.initial
    assert torch.equal(first.parameters, again.parameters)
    assert torch.equal(first.buffers, again.buffers)
    memory = weakref.ref(first.parameters)
    del first
    assert memory() is None


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("fednoro", ("strategy.warmup=1",)),
        ("fedcorr", ("strategy.preprocessing=1", "strategy.finetuning=1")),
    ],
)
def test_trainers_and_rules_that_talk_to_each_other(name: str, settings: tuple[str, ...]) -> None:
    words = (f"strategy={name}", f"client={name}", "server.batchnorm=mean", *settings)
    server = federations.build_server(*words, "rounds=3", "poisoned=[1]")
    with inline() as grid:
        last = run_rounds(server, grid, Memory()).records[-1]
    assert all(set(one.extras) == {"noisy"} for one in last.clients)
    assert ("suspected" in last.clients[0].metrics) == (name == "fedcorr")
