"""From made-up trainings to numbers, tables and the picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from fedrobust.evaluation.drops import PairedPredictions, bootstrap_drop, combined_drop
from fedrobust.reporting.predictions import read_predictions
from fedrobust.studies.ablation.figure import draw_figure, families, lines
from fedrobust.studies.ablation.markdown import page, value
from fedrobust.studies.ablation.poster import VALUES
from fedrobust.studies.ablation.results import AblationResults
from fedrobust.studies.ablation.screen import ablation_table
from fedrobust.studies.ablation.summary import Entry, make_summary
from fedrobust.utils.seeding import generator
from tests.helpers.ablations import FLIPS, RIGHT, findings
from tests.helpers.comparisons import CLASSES


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> AblationResults:
    return findings(tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def entries(found: AblationResults) -> Entry:
    return make_summary(found)


def test_it_is_plain_json_with_finite_numbers(entries: Entry) -> None:
    assert json.loads(json.dumps(entries, allow_nan=False)) == entries


def test_the_drop_is_that_of_the_formula(found: AblationResults, entries: Entry) -> None:
    for model in RIGHT:
        drops = [
            combined_drop(
                one.result.report.evaluations["clean"].values,
                one.result.report.evaluations["corrupted"].values,
            )
            for one in found.clean(model)
        ]
        assert entries["noise"][model]["by_seed"] == pytest.approx([one.combined for one in drops])
        assert entries["noise"][model]["combined"]["value"] == pytest.approx(
            sum(one.combined or 0 for one in drops) / 3
        )
        f1 = [one.per_metric["f1"]["drop"] for one in drops]
        assert entries["noise"][model]["f1"] == pytest.approx(sum(f1) / 3)


def test_levels_are_those_of_the_reports(found: AblationResults, entries: Entry) -> None:
    for condition in ("clean", "corrupted"):
        for metric in ("accuracy", "balanced_accuracy", "f1", "precision", "auroc"):
            values = [
                one.result.report.evaluations[condition].values[metric]
                for one in found.clean("ETF")
            ]
            assert entries["levels"][condition]["ETF"][metric]["value"] == pytest.approx(
                sum(values) / 3
            )


def test_poisoning_starts_from_the_clean_twin_of_the_same_seed(
    found: AblationResults, entries: Entry
) -> None:
    for poisoning in FLIPS:
        reports = [
            found.find("mine", poisoning, seed).result.report.evaluations for seed in (0, 1, 2)
        ]  # type: ignore[union-attr]
        expected = [
            combined_drop(one["twin_clean"].values, one["clean"].values).combined or math.nan
            for one in reports
        ]
        assert entries["poisonings"][poisoning]["models"]["mine"]["combined"][
            "value"
        ] == pytest.approx(sum(expected) / 3)


def test_intervals_of_one_seed_are_those_of_a_paired_bootstrap(tmp_path: Path) -> None:
    found = findings(tmp_path, seeds=(0,))
    one = next(found.clean("baseline"))
    predictions = read_predictions(one.result.folder)
    pair = predictions.predicted["clean"], predictions.predicted["corrupted"]
    low, high = bootstrap_drop(
        PairedPredictions(predictions.labels, *pair, CLASSES, predictions.groups),
        generator=generator(0, "ablation", "images"),
        draws=300,
    ) or (0, 0)
    combined = make_summary(found)["noise"]["baseline"]["combined"]
    assert (combined["low"], combined["high"]) == pytest.approx((low, high))
    assert "test images only" in page(make_summary(found), [])


def test_who_differs(entries: Entry) -> None:
    letters = entries["comparisons"]["noise"]["letters"]
    assert letters["baseline"] == letters["mine"] != letters["ETF"]
    assert entries["noise"]["baseline"]["minus_first"] is None
    assert entries["noise"]["ETF"]["minus_first"]["high"] < 0
    assert set(entries["comparisons"]) == {"noise", "poisonings", "scenarios"}
    assert len(entries["comparisons"]["noise"]["pairs"]) == 3


def test_strength_and_family_of_poisonings(entries: Entry) -> None:
    assert [one["strength"] for one in entries["poisonings"].values()] == [0.1, 0.4]
    assert families(entries["poisonings"]) == [["flip 10 %", "flip 40 %"]]
    panels, xlabels = lines(entries)
    assert list(panels) == ["test: noise", "training: flip", "test: hair"]
    assert xlabels == ["severity", "rate", "severity"]
    assert [x for x, _ in panels["training: flip"]["ETF"]] == [0, 0.1, 0.4]


def test_the_picture(entries: Entry, tmp_path: Path) -> None:
    assert draw_figure(entries, tmp_path / "drops.png")
    with Image.open(tmp_path / "drops.png") as picture:
        assert picture.size[0] > 600
    assert not draw_figure(
        {**entries, "grades": {}, "poisonings": {}, "scenarios": {}}, tmp_path / "none.png"
    )
    assert not (tmp_path / "none.png").exists()


def test_the_page(entries: Entry) -> None:
    text = page(entries, ["drops.png"])
    for part in (
        "Experiment 1: clean",
        "Experiment 2: noisy",
        "Drop from Experiment 1",
        "Graded noise",
        "Poisoned training data",
        "Scenarios at test",
    ):
        assert f"## {part}" in text
    assert "`noise` (std 0.01; in units of the image range [0, 1]" in text
    assert "## Failed" not in text
    assert "![drops.png](drops.png)" in text
    assert "70 : 20 : 240 images" in text
    for block in text.split("\n\n"):  # every table is whole
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, block


def test_the_poster_stands_beside_its_models_only(entries: Entry) -> None:
    assert set(entries["poster"]) == {"baseline", "ETF"} < set(VALUES)
    assert entries["poster"]["baseline"]["combined_by_formula"] == pytest.approx(30.921, abs=5e-4)
    rows = [
        line
        for line in page(entries, []).split("## Drop from")[1].split("##")[0].splitlines()
        if line.startswith("| ")
    ]
    ends = {
        row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[-3:-1]] for row in rows
    }
    assert ends["baseline"] == ["30.9", "12.57"]
    assert ends["ETF"] == ["14.4", "9.72"]
    assert ends["mine"] == ["", ""]


def test_failed_trainings_are_named_and_leave_gaps(tmp_path: Path) -> None:
    entries = make_summary(findings(tmp_path, missing=("ETF",)))
    assert entries["noise"]["ETF"]["combined"]["value"] is None
    text = page(entries, [])
    assert "| ETF · none · 0 poisoned · seed 0 | it went wrong |" in text
    assert json.dumps(entries, allow_nan=False)


def test_values_for_people() -> None:
    assert value({"value": 1.25, "low": -0.04, "high": 3.0}) == "1.2 [0.0, 3.0]"
    assert value({"value": None, "low": None, "high": None}) == "-"
    assert value(None) == ""


def test_the_screen_shows_what_the_page_shows(entries: Entry) -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(ablation_table(entries))
    shown = [line.split() for line in captured.get().splitlines()]
    for model in RIGHT:
        [row] = [line for line in shown if line and line[0] == model]
        levels = [entries["levels"][name][model]["accuracy"] for name in ("clean", "corrupted")]
        drop = entries["noise"][model]
        told = " ".join(value(one) for one in (*levels, drop["combined"], drop["minus_first"]))
        assert row[1:] == told.split()
