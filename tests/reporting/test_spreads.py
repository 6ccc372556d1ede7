"""Worst cases and spread in the report, on the screen and on the page."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from fedrobust.evaluation.counts import Withheld
from fedrobust.experiment.experiment import Experiment
from fedrobust.reporting import spreads
from fedrobust.reporting.charts.spreads import spread_figures
from fedrobust.reporting.console import summary_table
from fedrobust.reporting.fairness import fairness_section
from fedrobust.reporting.page_tables import spread_table
from fedrobust.reporting.results import client_results
from tests.helpers import federations, reports

NAMES = ("mel", "nv", "bcc")


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return federations.build_experiment(
        "num_clients=2", "partition=iid", "evaluation.bootstrap_samples=20"
    )


def test_the_section_takes_each_hospital_s_own_rows(experiment: Experiment) -> None:
    labels = experiment.dataset.labels[experiment.test_rows()]
    right = torch.eye(experiment.num_classes)[labels]
    wrong = right.clone()
    own = torch.isin(experiment.test_rows(), experiment.parts[1])
    wrong[own] = right[own].roll(1, dims=1)  # the second hospital's images are all wrong
    test = {"twin_clean": right, "clean": wrong, "corrupted": wrong, "twin_corrupted": right}
    found = fairness_section(experiment, test, ())
    one = found.evaluations["clean"]["site_accuracy"]
    assert (one.worst.value, one.worst_member, one.range.value) == (0.0, 1, 100.0)
    assert found.drops["poisoning"]["site_accuracy"].worst.value == 100.0
    assert found.drops["total"]["site_accuracy"].std.value == 50.0
    assert found.self_reported is None


def test_real_sites_have_what_they_report_without_interval_and_drop(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Experiment, "remote", True)
    monkeypatch.setattr(Experiment, "num_examples", lambda *_: 9)
    labels = torch.arange(20) % experiment.num_classes
    shares = torch.eye(experiment.num_classes)[labels]
    reported = {0: {"clean": (shares, labels)}, 1: Withheld("share-counts")}
    clients = client_results(experiment, reported, ())
    every = torch.eye(experiment.num_classes)[experiment.dataset.labels[experiment.test_rows()]]
    found = fairness_section(experiment, {"clean": every, "corrupted": every}, clients)
    one = found.evaluations["clean"]["site_accuracy"]
    assert (one.worst.value, one.worst.ci95, one.worst_member) == (100.0, None, 0)
    assert one.std.value is None
    assert found.sites_left_out == (1,)
    assert found.self_reported is True
    assert all("site_accuracy" not in part for part in found.drops.values())


def screen(document: dict[str, object]) -> str:
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(summary_table(reports.typed(document)))
    return console.export_text()


def test_the_screen_shows_worst_cases_beside_the_twin_s() -> None:
    text = screen(reports.full_report())
    assert "Worst cases and spread over hospitals and classes" in text
    assert "hospitals: accuracy" in text
    assert "45.0 → 40.0" in text
    assert "worst of classes: recall: bcc (clean twin: bcc)" in text
    assert "Worst cases" not in screen(reports.report())  # of earlier versions


def test_without_a_twin_there_are_values_alone() -> None:
    made = reports.typed(reports.full_report(twin=False))
    assert spreads.spread_columns(made) == spreads.ALONE_COLUMNS
    assert spreads.spread_rows(made)[0] == ("hospitals: accuracy", "worst", "40.0", "36.0 to 43.0")


def test_a_spread_that_grows_has_a_sign_and_a_drop_that_is_none_is_a_gain() -> None:
    document = reports.full_report()
    change = document["fairness"]["drops"]["poisoning"]["class_recall"]
    document["fairness"]["drops"]["poisoning"]["class_recall"] = change | {
        "worst": {"value": -4.0, "ci95": None},
        "range": {"value": None, "ci95": None},
    }
    rows = spreads.spread_rows(reports.typed(document))[-3:]
    assert [row[3] for row in rows] == ["gain 4.0", "+5.0", "-"]


def test_what_was_left_out_is_named() -> None:
    document = reports.full_report()
    document["fairness"] |= {"sites_left_out": [3, 4], "classes_left_out": [1]}
    notes = spreads.spread_notes(reports.typed(document), NAMES)
    assert notes[-2:] == [
        "left out, with fewer than 10 test images: hospital 3, 4",
        "left out, with fewer than 10 test images: class nv",
    ]


def test_the_page_has_both_charts_and_the_table() -> None:
    made = reports.typed(reports.full_report())
    worst, spread = spread_figures(made, NAMES)
    assert "Worst hospital and worst class" in worst.title
    assert "bcc" in str(worst.chart)
    assert "standard deviation" in spread.title
    assert str(spread_table(made)).count("<tr>") == 1 + 2 * 3 * 3
    old = reports.typed(reports.report())
    assert spread_figures(old, NAMES) == ()
    assert spread_table(old) == ""
