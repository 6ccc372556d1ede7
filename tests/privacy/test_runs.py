"""Privacy in the app and in a whole run: what a reply holds, what the report says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fedrobust.clients.app import app
from flwr.app import Context, Message, RecordDict

from fedrobust.evaluation.counts import Withheld
from fedrobust.privacy.accounting import epsilon
from fedrobust.reporting import report as reporting
from fedrobust.reporting.report.sections import PrivacySection
from fedrobust.reporting.text import privacy_text
from fedrobust.runtime.engines.inline_grid import InlineGrid
from fedrobust.runtime.messages import records
from fedrobust.runtime.messages.evaluations import read_client_evaluation
from fedrobust.runtime.server.loop import build_server_context
from fedrobust.runtime.server.rule_strategy import ServerContext
from fedrobust.runtime.server.run import run_experiment
from fedrobust.state import read
from tests.helpers import federations
from tests.helpers.federations import Memory
from tests.helpers.site_errors import site_error

DP = (
    "strategy=fedavg",
    "privacy=local_dp",
    "privacy.clip=0.5",
    "privacy.noise_multiplier=0.1",
    "poisoned=0",
)


def asked(server: ServerContext, kind: str = "train", number: int = 1) -> Message:
    records.set_identity()
    order = {
        "experiment": server.experiment.text,
        "round": number,
        "etf": server.etf_bytes,
        "etf-sha256": server.etf_sha256,
    }
    return Message(
        records.train_message(records.state_record(read(server.model, server.layout)), order),
        0,
        kind,
    )


def hospital(**node) -> Context:
    return Context(1, 0, {"partition-id": 0, "num-partitions": 3, **node}, RecordDict(), {})


def released(server: ServerContext, number: int = 1, **node) -> records.TrainReply:
    reply = app(asked(server, number=number), hospital(**node))
    return records.read_train_reply(
        reply.content, (server.layout.num_parameters, server.layout.num_buffers)
    )


def test_a_private_reply_holds_the_noisy_update_and_nothing_else() -> None:
    server = federations.build_server(*DP)
    start = read(server.model, server.layout)
    one, again = released(server, simulation=True), released(server, simulation=True)
    assert (one.num_examples, one.metrics, one.extras) == (1, {}, {})
    assert torch.equal(one.state.buffers, start.buffers)
    assert torch.equal(one.state.parameters, again.state.parameters)  # a simulation repeats
    # standard deviation 2 * 0.5 * 0.1 = 0.1, and an update of at most 0.5 over all parameters
    update = one.state.parameters - start.parameters
    assert float(update.std()) == pytest.approx(0.1, rel=0.1)


def test_a_real_hospital_draws_in_secret() -> None:
    server = federations.build_server(*DP)
    one, two = released(server), released(server)
    assert not torch.equal(one.state.parameters, two.state.parameters)
    simulated = released(server, simulation=True)
    assert float((one.state.parameters - simulated.state.parameters).std()) == pytest.approx(
        0.1 * 2**0.5, rel=0.2
    )


def test_clipping_in_the_app() -> None:
    plain = federations.build_server(*DP[:1], "poisoned=0")
    clipped = federations.build_server(
        *DP[:1], "poisoned=0", "privacy=clipping", "privacy.clip=0.01"
    )
    start = read(plain.model, plain.layout)
    honest, short = (released(server, simulation=True) for server in (plain, clipped))
    update, cut = (reply.state.parameters - start.parameters for reply in (honest, short))
    # rounding of the sum with the reference
    assert float(cut.norm()) == pytest.approx(0.01, rel=1e-2)
    assert torch.allclose(cut / cut.norm(), update / update.norm(), atol=1e-3)
    assert short.num_examples == honest.num_examples
    assert short.metrics == honest.metrics


def test_a_node_with_a_limit_counts_and_then_stops(tmp_path: Path) -> None:
    server, path = federations.build_server(*DP), tmp_path / "ledger.jsonl"
    limit = {"max-epsilon": epsilon(0.1, 2, 1e-5) + 1e-3, "privacy-ledger": str(path)}
    for number in (1, 2):
        released(server, number, **limit)
    with site_error("budget", "it sends no more"):
        released(server, 3, **limit)
    with site_error("repeated", "answered before"):
        released(server, 2, **limit)
    assert len(path.read_text().splitlines()) == 2
    open_server = federations.build_server("strategy=fedavg", "poisoned=0")
    with site_error("local-dp", "sends nothing without local DP"):
        released(open_server, 4, **limit)
    told = app(asked(server, "evaluate"), hospital(**limit)).content
    assert read_client_evaluation(told, 7)[0] == Withheld("max-epsilon")


def test_epsilon_stands_in_the_rounds_and_in_the_report(tmp_path: Path) -> None:
    words = ("strategy=fedavg", "privacy=local_dp", "privacy.noise_multiplier=2.0", "rounds=2")
    words += ("evaluation.bootstrap_samples=10", "evaluation.twin=false")
    experiment, memory = federations.build_experiment(*words), Memory()
    with InlineGrid("fedrobust.clients.app:app", 3, {"simulation": True}, threads=1) as grid:
        report, _ = run_experiment(
            build_server_context(experiment), grid, tmp_path, memory, "inline"
        )
    assert [record.extras.get("epsilon") for _, record in memory.records] == [
        None,
        epsilon(2.0, 1, 1e-5),
        epsilon(2.0, 2, 1e-5),
    ]
    assert report.privacy == PrivacySection(
        name="local_dp",
        clip=1.0,
        noise_multiplier=2.0,
        replies=2,
        delta=1e-5,
        epsilon_per_reply=epsilon(2.0, 1, 1e-5),
        epsilon=epsilon(2.0, 2, 1e-5),
    )
    written = reporting.read_report(tmp_path).privacy
    assert written is not None
    assert 0 <= written.epsilon - epsilon(2.0, 2, 1e-5) < 1e-5  # rounded, and never down
    # mu = 1/2: epsilon 1.98 (delta 1e-5); mu = sqrt(2)/2: 2.92
    assert privacy_text(report.privacy).startswith(
        "privacy=local_dp: updates no longer than 1, noise 2 x 2 x that; epsilon 2.9"
    )


def test_words_for_what_promises_nothing() -> None:
    assert privacy_text(None) == ""
    facts = PrivacySection(name="clipping", clip=0.5, noise_multiplier=0.0, replies=3)
    assert (
        privacy_text(facts)
        == "privacy=clipping: updates no longer than 0.5, no noise, no guarantee"
    )
