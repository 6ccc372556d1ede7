"""Drops over clients, by hand: of the global model and of the clients' own ones."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fedrobust.data import TEST
from fedrobust.experiment.experiment import PERSONAL, Experiment
from fedrobust.reporting.console import summary_table
from fedrobust.reporting.own_models import own_rows, site_drop_rows
from fedrobust.reporting.page_tables import page_tables
from fedrobust.reporting.results import client_results
from fedrobust.reporting.site_drops import site_drops
from fedrobust.studies.python_api import Run
from tests.helpers import federations, reports


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    words = ("client=ditto", "poisoned=[2]", "evaluation.bootstrap_samples=20")
    return federations.build_experiment(*words)


def right(labels: torch.Tensor) -> torch.Tensor:
    return torch.eye(7)[labels]


def half(labels: torch.Tensor) -> torch.Tensor:
    """Every second image takes the next class."""
    return torch.eye(7)[(labels + torch.arange(len(labels)) % 2) % 7]


def found(experiment: Experiment):
    """Client 0 (clean) loses nothing, client 1 (clean) half of its images through the poisoned run,
    client 2 (poisoned) all of them. The global model is right everywhere in the twin alone."""
    scores, twins = {}, {}
    for client in range(3):
        labels = experiment.dataset.labels[experiment.rows(client, TEST)]
        own = (right, half, lambda one: right((one + 1) % 7))[client](labels)
        pair = own, labels
        scores[client] = dict.fromkeys(("clean", "contaminated", *PERSONAL), pair)
        scores[client]["personal_corrupted"] = right((labels + 1) % 7), labels
        twins[client] = right(labels), labels
    labels = experiment.dataset.labels[experiment.test_rows()]
    test = {"clean": right((labels + 1) % 7), "corrupted": right(labels)}
    test["twin_clean"] = right(labels)
    clients = client_results(experiment, scores, [], twins)
    section = site_drops(experiment, test, clients)
    assert section is not None
    return clients, section


def accuracy(drop) -> tuple[float, float]:
    one = drop.per_metric["accuracy"]
    return one.normal, one.attack


def test_the_four_drops_of_own_models_by_hand(experiment: Experiment) -> None:
    clients, section = found(experiment)
    drops = section.personal_models.present
    assert list(drops) == ["poisoning", "corruption", "total", "clients"]
    n = len(experiment.rows(1, TEST))
    hits = 100 * ((n + 1) // 2) / n  # of client 1: images 0, 2, 4, ... keep their class
    # means over the three clients: twin 100; run (100 + hits + 0) / 3; corrupted 0
    assert accuracy(drops["poisoning"]) == pytest.approx((100, (100 + hits) / 3))
    assert accuracy(drops["corruption"]) == pytest.approx(((100 + hits) / 3, 0))
    assert accuracy(drops["total"]) == (100, 0)
    assert drops["clients"].combined == 0
    # what contamination does to clean sites: client 1 alone loses something
    kinds = drops["poisoning"].by_kind
    assert kinds["poisoned"].combined == 100
    assert 0 < kinds["clean"].combined < 50
    assert kinds["clean"].num_clients == 2
    assert clients[0].personal.twin_clean.accuracy == 100


def test_the_global_model_on_the_same_sites(experiment: Experiment) -> None:
    drops = found(experiment)[1].global_model.present
    assert accuracy(drops["poisoning"]) == (100, 0)
    assert accuracy(drops["total"]) == (100, 100)
    assert drops["corruption"].per_metric["accuracy"].drop is None


def test_without_own_models_the_section_is_there_where_it_is_asked_for(
    experiment: Experiment,
) -> None:
    plain = federations.build_experiment("poisoned=[2]", "evaluation.bootstrap_samples=0")
    clients, labels = found(experiment)[0], plain.dataset.labels[plain.test_rows()]
    none = [one.model_copy(update={"personal": None}) for one in clients]
    test = {"clean": right(labels), "corrupted": right(labels)}
    assert site_drops(plain, test, none) is None
    asked = replace(plain, evaluation=replace(plain.evaluation, site_drops=True))
    section = site_drops(asked, test, none)
    assert section is not None
    assert section.personal_models is None
    assert set(section.global_model.present) == {"corruption", "clients"}


def test_a_client_that_does_not_report_on_its_own_model(experiment: Experiment) -> None:
    clients, _ = found(experiment)
    silent = [clients[0].model_copy(update={"personal": None}), *clients[1:]]
    section = site_drops(experiment, {}, silent)
    assert section is not None
    assert section.personal_models.poisoning.by_kind["clean"].num_clients == 1
    assert [row[0] for row in own_rows(silent)] == ["1", "2"]


def test_the_table_of_clients_has_own_models(experiment: Experiment) -> None:
    clients, _ = found(experiment)
    report = reports.typed(reports.report(3, 1, 0)).model_copy(update={"clients": clients})
    table = Run(Path(), report).frame("clients")
    assert table["own_clean_accuracy"].tolist() == [one.personal.clean.accuracy for one in clients]
    assert table.loc[2, "own_twin_clean_accuracy"] == 100
    plain = Run(Path(), reports.typed(reports.report(3, 1, 0))).frame("clients")
    assert not [name for name in plain.columns if name.startswith("own_")]


def test_screen_and_page_show_own_models(experiment: Experiment) -> None:
    clients, section = found(experiment)
    report = reports.typed(reports.report(3, 1, 0)).model_copy(
        update={"clients": clients, "site_drops": section}
    )
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(summary_table(report))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "Own models: balanced accuracy" in text
    assert "Combined drop of the metrics' means over clients" in text
    tables = page_tables(report, [])
    assert {"own_models", "site_drops"} <= set(tables)
    assert len(site_drop_rows(section)) == 8
