"""Whole runs with a frozen backbone: from features as from images, from the cache as without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedrobust.experiment import features
from fedrobust.reporting import samples
from fedrobust.reporting.report import Report
from fedrobust.reporting.results import RunPredictions
from fedrobust.runtime.engines.inline_grid import InlineGrid
from fedrobust.runtime.server import run
from fedrobust.runtime.server.loop import build_server_context, predict_global, run_rounds
from fedrobust.state import read
from fedrobust.utils.recent import Recent
from tests.helpers import federations

CLIENTS = "fedrobust.clients.app:app"
FROZEN = (
    *("model.freeze=backbone", "model.hidden=[8]", "client.loss=balanced_softmax"),
    *("evaluation.bootstrap_samples=0", "server.proxy_images=8", "data.size=16"),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "cache"))


def whole_run(folder: Path, *words: str) -> tuple[Report, RunPredictions]:
    experiment = federations.build_experiment(*FROZEN, *words)
    with InlineGrid(CLIENTS, 3, {"simulation": True}, threads=1) as grid:
        return run.run_experiment(
            build_server_context(experiment), grid, folder, federations.Memory(), "inline"
        )


def test_scores_of_the_same_weights_are_the_same_with_and_without_cache() -> None:
    server = federations.build_server(*FROZEN)
    images = federations.build_server(*FROZEN, "model.feature_cache=false")
    with InlineGrid(CLIENTS, 3, {"simulation": True}, threads=1) as grid:
        state = run_rounds(server, grid, federations.Memory()).state
    assert not torch.equal(state.parameters, read(server.model, server.layout).parameters * 0)
    for name in ("test", "validation", "proxy", "root"):
        seen, real = (getattr(one.inputs, name) for one in (server, images))
        assert seen.images.shape != real.images.shape
        found = [predict_global(one, state, x) for one, x in ((server, seen), (images, real))]
        assert torch.allclose(*found, atol=1e-5)


def test_equal_seeds_give_equal_bits_from_a_new_and_a_filled_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("strategy=etf_dml", "contamination=backdoor_patch", "evaluation.twin=false")
    found: list[dict[str, Tensor]] = []
    for name in ("new", "filled"):
        monkeypatch.setattr(features, "_OPEN", Recent[Tensor](features.KEPT))
        found.append(dict(whole_run(tmp_path / name, *words)[1].test))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("rule", ["fltrust", "etf_dml"])
def test_attacks_purifiers_and_sanitisers_work_beside_features(tmp_path: Path, rule: str) -> None:
    report, scores = whole_run(
        tmp_path,
        *(f"strategy={rule}", "contamination=backdoor_patch", "poisoned=[1]", "noisy=[0]"),
        *("evasion=fgsm", "evaluation.evasion_evaluation.adversarial_images=6"),
        *("purifier=gaussian", "sanitiser=sphere", "sanitiser.warmup=0", "evaluation.twin=false"),
    )
    assert report.evasion is not None
    assert report.sanitising is not None
    assert 0 <= report.attack_success_rate <= 100
    assert {"purified_clean", "purified_corrupted"} <= scores.test.keys()
    assert scores.clients[1].keys() >= {"purified_clean", "purified_contaminated"}


def test_a_stealthy_attacker_trains_on_features_too(tmp_path: Path) -> None:
    report, _ = whole_run(
        tmp_path,
        *("strategy=fedavg", "contamination=adaptive_etf", "contamination.goal=trigger"),
        *("contamination.target=1", "evaluation.twin=false", "model.feature_views=2"),
    )
    assert report.evaluations["clean"].n > 0


def test_pictures_are_those_of_the_images_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("contamination=backdoor_patch", "poisoned=1", "noisy=1")
    real = samples.sample_rows(
        federations.build_experiment(*FROZEN, *words, "model.feature_cache=false")
    )
    experiment = federations.build_experiment(*FROZEN, *words)
    first = samples.sample_rows(experiment)
    monkeypatch.setattr(samples, "_sample_pairs", None)
    for found in (first, samples.sample_rows(experiment)):
        for (title, *sides), (wanted, *others) in zip(found, real, strict=True):
            assert title == wanted
            for side, other in zip(sides, others, strict=True):
                assert torch.equal(side.images, other.images)
                assert torch.equal(side.labels, other.labels)
