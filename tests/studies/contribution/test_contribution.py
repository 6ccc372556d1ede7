"""Contributions of hospitals: the plan of the coalitions, and what their predictions say."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fedrobust.errors import ConfigError
from fedrobust.evaluation.contribution import players_of
from fedrobust.reporting.predictions import Predictions, write_predictions
from fedrobust.reporting.report import write_report
from fedrobust.studies.comparison.executor import CELLS
from fedrobust.studies.contribution import run
from fedrobust.studies.contribution.plan import Plan, read_plan
from fedrobust.studies.contribution.results import (
    by_kind,
    contribution_frame,
    contributions,
)
from tests.helpers import reports

IMAGES = 40  # of each hospital
SMALL = ("experiment=smoke", "server.batchnorm=mean")
MEAN = "strategy=fedavg"


def plan(*words: str) -> Plan:
    small = ["num_clients=3", "poisoned=1", "draws=50", MEAN]
    given = {word.partition("=")[0] for word in words}
    return read_plan(
        [*SMALL, *(one for one in small if one.partition("=")[0] not in given), *words]
    )


def predictions(coalition: int, poisoned: int = 0) -> Predictions:
    """Images of class 0, of which a hospital's are classified right if it is in the coalition; the
    poisoned one's are by the clean twin only."""
    labels = torch.zeros(3 * IMAGES, dtype=torch.int64)
    twin, clean = torch.ones_like(labels), torch.ones_like(labels)
    for one in players_of(coalition):
        twin[one * IMAGES : (one + 1) * IMAGES] = 0
        clean[one * IMAGES : (one + 1) * IMAGES] = int(one == poisoned)
    shares = {"clean": torch.eye(2)[clean], "twin_clean": torch.eye(2)[twin]}
    return Predictions(
        labels, torch.arange(3 * IMAGES), {"clean": clean, "twin_clean": twin}, shares
    )


def test_all_coalitions_up_to_eight_hospitals_else_sampled_orders() -> None:
    made = plan("seeds=[0,1]")
    assert len(made.cells) == 2 * 7
    assert not made.orders
    assert made.cells[1, 0b101].config["participants"] == [0, 2]
    assert made.cells[1, 0b111].config["participants"] is None
    assert made.cells[1, 0b101].folder.startswith("0+2-label_flip-p1-s1-")
    sampled = plan("seeds=[0]", "num_clients=9", "pairs=2")
    assert len(sampled.orders[0]) == 4
    assert len(plan("num_clients=9", "seeds=[0]").orders[0]) == 20
    sizes = [mask.bit_count() for _, mask in sampled.cells]
    assert sizes.count(8) == 9  # leave-one-out
    assert len(sampled.cells) <= 4 * 9 + 9


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["participants=[0]"], "participants=.0.: the study makes all coalitions itself"),
        (["seed=3"], r"seed=3: a grid takes several; give seeds=\[...\]"),
        (["metric=auroc"], "metric=auroc: must be one of"),
        (["pairs=0"], "pairs=0: must be at least 1"),
        (
            [
                "num_clients=4",
                "poisoned=1",
                "rounds=3",
                "schedule.until_round=1",
                "schedule.afterwards=leave",
            ],
            "schedule.afterwards=leave: a coalition of poisoned hospitals",
        ),
    ],
)
def test_wrong_words_are_refused(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        plan(*words)


def test_a_rule_that_needs_several_clients_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(run, "run_grid", never)
    asked = plan("strategy=krum", "strategy.f=1", "num_clients=5", f"out={tmp_path / 'out'}")
    with pytest.raises(ConfigError, match="strategy=krum: needs at least 5 clients a round"):
        run.measure_contributions(asked, Console(file=io.StringIO()))
    assert not (tmp_path / "out").exists()


def test_golden_contributions() -> None:
    # accuracy of a coalition: 100/3 for each clean member; hospital 0 is poisoned and adds nothing.
    # Drops: twin's accuracy |S|/3, run's (|S| - [0 in S])/3, so accuracy's and f1's... by hand: the
    # drop of {0} is 100 %, of {0, 1} accuracy 50 %, and 0 without hospital 0
    made = replace(plan("seeds=[0]", "metric=accuracy"))
    report = reports.typed(reports.report(3, 1, 0))
    untrained = torch.ones(3 * IMAGES, dtype=torch.int64)
    found = contributions(made, 0, report, predictions, untrained)
    assert found.shapley[0, :, 0].tolist() == pytest.approx([0, 100 / 3, 100 / 3])
    assert found.leave_one_out[0, :, 0].tolist() == pytest.approx([0, 100 / 3, 100 / 3])
    assert float(found.shapley[1, 0, 0]) > 50  # the drop is the poisoned hospital's
    total = found.values[1, 1, 0]
    assert float(found.shapley[1, :, 0].sum()) == pytest.approx(float(total))
    frame = contribution_frame({0: found})
    row = frame[(frame.client == 1) & (frame.game == "performance")].iloc[0]
    assert row.low < row.shapley < row.high
    kinds = {(one.game, one.kind): one.shapley.value for one in by_kind({0: found}, 50)}
    assert kinds["performance", "clean"] == pytest.approx(100 / 3)
    assert kinds["performance", "poisoned"] == pytest.approx(0)


def test_sampled_orders_of_an_additive_game_are_exact() -> None:
    made = plan("seeds=[0]", "metric=accuracy", "pairs=3")
    report = reports.typed(reports.report(3, 1, 0))
    found = contributions(made, 0, report, predictions, torch.ones(3 * IMAGES, dtype=torch.int64))
    assert found.shapley[0, :, 0].tolist() == pytest.approx([0, 100 / 3, 100 / 3])


def test_the_study_writes_table_page_and_picture_and_leaves_out_a_failed_seed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = plan("seeds=[0,1]", f"out={tmp_path}")
    for (seed, coalition), cell in made.cells.items():
        folder = tmp_path / CELLS / cell.folder
        part = predictions(coalition)
        if seed == 0:
            write_predictions(folder, part.labels, part.groups, part.probabilities)
            write_report(folder, reports.typed(reports.report(3, 1, 0)))
    monkeypatch.setattr(run, "_untrained", lambda _: torch.ones(3 * IMAGES, dtype=torch.int64))
    screen = io.StringIO()
    failed = {made.cells[1, 1]: "killed"}
    run._finish(made, failed, Console(file=screen, width=100))
    assert "1 seed left out" in screen.getvalue()
    assert (tmp_path / "contribution.png").stat().st_size > 1000
    text = (tmp_path / "contribution.md").read_text()
    assert "all coalitions of 3 hospitals" in text
    assert "## Seed 1" not in text
    lines = (tmp_path / "contribution.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3
