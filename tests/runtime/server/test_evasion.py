"""The end of a run with an attack: the global model, and every client's own."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedrobust.data import TEST
from fedrobust.evaluation.metrics import classification_metrics
from fedrobust.learning import batchnorm
from fedrobust.learning.ensemble import fuse
from fedrobust.learning.inference import predict
from fedrobust.reporting import report as reporting
from fedrobust.reporting.report.metrics import ConditionMetrics
from fedrobust.runtime.server.evasion import evaluate_evasion
from fedrobust.runtime.server.loop import run_rounds
from fedrobust.runtime.server.run import run_experiment
from fedrobust.state import State, load
from tests.helpers import federations
from tests.helpers.federations import FakeGrid, Memory, honest
from tests.runtime.server.test_checkpointing import StopAfter, StoppedError, go, inline

KEY = "evaluation.evasion_evaluation"
SMALL = (
    "strategy=fedavg",
    "evasion=fgsm",
    f"{KEY}.eps_255=[2,8]",
    "evaluation.bootstrap_samples=20",
    "poisoned=[1]",
    "rounds=2",
)


def finish(*words: str, server: Any = None) -> tuple[Any, Any, Memory]:
    server, memory = server or federations.build_server(*SMALL, *words), Memory()
    return server, run_rounds(server, FakeGrid(3, honest(server)), memory), memory


def test_the_members_are_what_was_sent_in_the_last_round() -> None:
    server, finished, _ = finish()
    reference = None
    once = federations.build_server(*SMALL, "rounds=1")
    _, before, _ = finish(server=once)
    reference = before.state  # the same first round
    found = dict(finished.client_models)
    assert list(found) == [0, 1, 2]
    clients = sorted(FakeGrid(3, honest(server)).get_node_ids())
    for client, state in found.items():
        expected = federations.trained(server.layout, reference, clients[client])
        torch.testing.assert_close(state.parameters, expected.parameters, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(state.buffers, expected.buffers)
    assert list(finished.client_models) == []  # for the first who asks


@pytest.mark.parametrize("words", [("evasion=none",), (f"{KEY}.adversarial_clients=false",)])
def test_no_members_are_kept_where_nobody_wants_them(words: tuple[str, ...]) -> None:
    assert list(finish(*words)[1].client_models) == []


def metrics(probabilities: torch.Tensor, labels: torch.Tensor) -> ConditionMetrics:
    return ConditionMetrics.model_validate(classification_metrics(probabilities, labels))


def test_the_section_of_a_run() -> None:
    server, finished, memory = finish()
    section = evaluate_evasion(server, finished, memory)
    experiment = server.experiment
    assert section.images == len(experiment.test_rows())
    assert [one.eps_255 for one in section.attacks] == [2, 8]
    clean = experiment.samples(experiment.test_rows())
    load(server.model, server.layout, finished.state)
    assert section.clean["none"] == metrics(predict(server.model, clean.images), clean.labels)
    assert [(one.id, one.kind) for one in section.clients] == [
        (0, "clean"),
        (1, "poisoned"),
        (2, "clean"),
    ]
    assert [one.clean["none"].n for one in section.clients] == [
        len(experiment.rows(client, TEST)) for client in range(3)
    ]
    assert ("stage", "run", "fgsm on global, oblivious, eps 8/255") in memory.events
    assert ("stage", "run", "fgsm on client 2, oblivious, eps 2/255") in memory.events


def test_the_clients_models_fused() -> None:
    server, finished, memory = finish(f"{KEY}.fusion=true")
    section = evaluate_evasion(server, finished, memory)
    fusion = section.fusion
    assert fusion.members == 3
    assert [one.eps_255 for one in fusion.attacks] == [2, 8]
    assert ("stage", "run", "fgsm on fusion, oblivious, eps 8/255") in memory.events
    again, members = finish()[1], []
    for _, state in again.client_models:
        load(server.model, server.layout, state)
        batchnorm.recalibrate(server.model, server.proxy.images)
        members.append(copy.deepcopy(server.model))
    clean = server.experiment.samples(server.experiment.test_rows())
    assert fusion.clean["none"] == metrics(predict(fuse(members), clean.images), clean.labels)


def test_a_members_batchnorm_follows_the_policy_of_the_server() -> None:
    server, finished, memory = finish()
    state = dict(finished.client_models)[2]
    again = finish(server=server)[1]
    section = evaluate_evasion(server, again, memory)
    own = server.experiment.samples(server.experiment.rows(2, TEST))
    load(server.model, server.layout, state)
    batchnorm.recalibrate(server.model, server.proxy.images)
    assert section.clients[2].clean["none"] == metrics(
        predict(server.model, own.images), own.labels
    )


def test_fewer_images_are_drawn_by_the_seed() -> None:
    server, finished, memory = finish(
        f"{KEY}.adversarial_images=10", f"{KEY}.adversarial_clients=false"
    )
    one = evaluate_evasion(server, finished, memory)
    assert one.images == 10
    assert one.clients == ()
    assert one == evaluate_evasion(server, finished, Memory())


def test_a_member_that_has_run_away_is_named_and_left_out() -> None:
    server, finished, memory = finish("server.batchnorm=mean")
    members = dict(finished.client_models)
    members[1] = State(members[1].parameters * 1e30, members[1].buffers)
    section = evaluate_evasion(server, replace(finished, client_models=members.items()), memory)
    assert [one.id for one in section.clients] == [0, 2]
    assert any(
        "the model of client 1 is not attacked: it answers with values that are not finite"
        in str(event[-1])
        for event in memory.events
    )


def test_threat_models_that_know_the_purifier_are_for_the_global_model() -> None:
    threats = f"{KEY}.threat_models=[oblivious,bpda_eot]"
    server, finished, memory = finish(
        "purifier=gaussian", threats, f"{KEY}.eot_samples=1", f"{KEY}.eps_255=[8]"
    )
    section = evaluate_evasion(server, finished, memory)
    assert [(one.threat_model, one.purifier) for one in section.attacks] == [
        ("oblivious", "none"), ("oblivious", "gaussian"), ("bpda_eot", "gaussian"),
    ]  # fmt: skip
    assert [(one.threat_model, one.purifier) for one in section.clients[0].attacks] == [
        ("oblivious", "none"), ("oblivious", "gaussian"),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_run_stopped_at_its_end_does_the_last_round_again_for_the_members(tmp_path: Path) -> None:
    whole = go(tmp_path / "a", Memory(), *SMALL[1:])
    stopped = StopAfter(2)
    with pytest.raises(StoppedError):
        go(tmp_path / "b", stopped, *SMALL[1:])
    said: list[str] = []
    again = go(tmp_path / "b", Memory(), *SMALL[1:], said=said)
    # and once more, after a run that went through
    finished = go(tmp_path / "b", Memory(), *SMALL[1:])
    assert said == ["run: resumes after round 1"]
    expected = dict(whole.client_models)
    for one in (again, finished):
        members = dict(one.client_models)
        assert list(members) == list(expected)
        assert all(
            torch.equal(members[client].parameters, expected[client].parameters)
            for client in members
        )


def test_a_whole_run_with_everything(tmp_path: Path) -> None:
    """Hardened training, a hospital whose images are attacked, a purifier, an attack on the final
    models."""
    words = (
        "client=adversarial",
        "client.attack_steps=1",
        "contamination=evasion",
        "contamination.steps=1",
        "purifier=gaussian",
    )
    server = federations.build_server(*SMALL[1:], *words, "rounds=1", f"{KEY}.eps_255=[8]")
    with inline() as grid:
        run_experiment(server, grid, tmp_path, Memory(), "inline")
    report = reporting.read_report(tmp_path)
    assert {"clean", "purified_clean", "purified_corrupted"} <= set(report.evaluations)
    assert report.evaluations["purified_clean"].values == report.evasion.clean["gaussian"].values
    assert report.evaluations["clean"].values == report.evasion.clean["none"].values
    assert all(one.purified is not None for one in report.clients)
    assert [one.clean == one.contaminated for one in report.clients] == [True, False, True]
    assert [one.id for one in report.evasion.clients] == [0, 1, 2]
    assert report.timing["evasion"] > 0
