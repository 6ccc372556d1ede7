"""Clients' own models in whole runs: kept at the client, evaluated beside the global one, there
again after a resumption, and of a cached twin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedrobust.runtime.engines.inline_grid import InlineGrid
from fedrobust.runtime.messages.client_state import from_plain, to_plain
from fedrobust.runtime.server import clean_twin, run
from fedrobust.runtime.server.loop import build_server_context, evaluate_clients, run_rounds
from fedrobust.utils import nested
from tests.helpers import federations
from tests.helpers.federations import MEAN, FakeGrid, Memory

CLIENTS = "fedrobust.clients.app:app"
WORDS = (*MEAN, "client=ditto", "client.steps=3", "client.optimizer.lr=0.05", "rounds=1")


def inline() -> InlineGrid:
    return InlineGrid(CLIENTS, 3, {"simulation": True}, threads=1)


def test_own_models_stay_with_their_clients_over_a_resumption() -> None:
    server = federations.build_server(*WORDS, "poisoned=1")
    with inline() as grid:
        finished = run_rounds(server, grid, Memory())
        states = to_plain(grid.states)
        before = evaluate_clients(server, finished.state, grid, Memory())
    restored = from_plain(nested.unflatten(*nested.flatten(states)))
    with inline() as grid:
        grid.restore(restored)
        after = evaluate_clients(server, finished.state, grid, Memory())
        grid.restore({})
        forgotten = evaluate_clients(server, finished.state, grid, Memory())
    for client, conditions in before.items():
        assert set(conditions) == set(server.experiment.conditions)
        for name, (scores, labels) in conditions.items():
            assert torch.equal(after[client][name][0], scores)
            assert torch.equal(after[client][name][1], labels)
        assert not torch.equal(conditions["personal_clean"][0], conditions["clean"][0])
        # a client without a model of its own has the global one
        none = forgotten[client]
        assert torch.equal(none["personal_clean"][0], none["clean"][0])


def test_a_whole_run_and_its_cached_twin(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "cache"))
    made = []
    for _ in range(2):
        experiment = federations.build_experiment(
            *WORDS, "poisoned=1", "evaluation.bootstrap_samples=20"
        )
        with inline() as grid:
            report, scores = run.run_experiment(
                build_server_context(experiment), grid, tmp_path, Memory(), "inline"
            )
        made.append((report.clients, report.site_drops, scores.twin_personal))
    (clients, drops, twin), (again, same, cached) = made
    assert clients == again
    assert drops == same
    assert list(drops.personal_models.present) == ["poisoning", "corruption", "total", "clients"]
    assert list(drops.global_model.present) == list(drops.personal_models.present)
    for client, (scores_NK, labels_N) in twin.items():
        assert torch.equal(cached[client][0], scores_NK)
        assert torch.equal(cached[client][1], labels_N)
    # a twin without what its own models predict is trained again
    path = next((tmp_path / "cache" / "twins").glob("*.personal.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    assert clean_twin.load_personal(path.name.removesuffix(".personal.safetensors")) is None


def test_only_a_real_site_may_leave_its_own_model_out() -> None:
    server = federations.build_server(*WORDS, "server.max_failures=3")
    sites = replace(server, experiment=replace(server.experiment, sites=("a", "b", "c")))
    state = server.initial
    for asked, found in ((server, []), (sites, [0, 1, 2])):
        silent = FakeGrid(3, lambda message: federations.verdict(server, message))
        assert list(evaluate_clients(asked, state, silent, Memory())) == found


@pytest.mark.parametrize("contaminated", [0, 1])
def test_the_twin_of_a_clean_run_is_the_run(monkeypatch, tmp_path: Path, contaminated: int) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path))
    server = federations.build_server(*WORDS, f"poisoned={contaminated}")
    with inline() as grid:
        finished = run_rounds(server, grid, Memory())
        twin = clean_twin.train_clean_twin(server.experiment, finished, grid, Memory())
        own = evaluate_clients(server, finished.state, grid, Memory())
    same = [
        torch.equal(twin.personal[client][0], found["personal_clean"][0])
        for client, found in own.items()
    ]
    assert all(same) is not bool(contaminated)


def test_an_own_model_made_at_the_evaluation_is_made_of_the_final_global_model() -> None:
    """FedETF fine-tunes then: the same at every call, and the global model's answers are those of
    a run without own models."""
    server = federations.build_server(
        *MEAN, "client=fedetf", "client.steps=2", "client.turns=1", "poisoned=0"
    )
    with inline() as grid:
        first = evaluate_clients(server, server.initial, grid, Memory())
        again = evaluate_clients(server, server.initial, grid, Memory())
        plain = federations.build_server(*MEAN, "poisoned=0", "client.loss=balanced_softmax")
        without = evaluate_clients(plain, server.initial, grid, Memory())
    for client, conditions in first.items():
        for name, (scores, _) in conditions.items():
            assert torch.equal(again[client][name][0], scores)
        assert torch.equal(conditions["clean"][0], without[client]["clean"][0])
        assert not torch.equal(conditions["personal_clean"][0], conditions["clean"][0])


def test_an_attacker_who_stopped_tunes_its_own_model_on_its_own_labels() -> None:
    words = (*MEAN, "client=fedetf", "client.steps=2", "client.turns=1", "contamination=label_flip")
    clean = federations.build_server(*words, "poisoned=0")
    flipped = federations.build_server(*words, "poisoned=1")
    [attacker] = flipped.experiment.clients_of_kind("poisoned")
    with inline() as grid:
        wanted, honest, attacking = (
            evaluate_clients(server, clean.initial, grid, Memory(), attacks=attacks)[attacker]
            for server, attacks in ((clean, True), (flipped, False), (flipped, True))
        )
    assert torch.equal(honest["personal_clean"][0], wanted["personal_clean"][0])
    assert not torch.equal(attacking["personal_clean"][0], wanted["personal_clean"][0])
