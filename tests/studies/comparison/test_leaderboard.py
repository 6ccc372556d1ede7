"""From made-up cells to tables and pictures."""

from __future__ import annotations

import dataclasses
import io
import itertools
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from fedrobust.errors import DataError
from fedrobust.evaluation.drops import PairedPredictions, bootstrap_drop
from fedrobust.reporting.predictions import write_predictions
from fedrobust.studies.comparison import figures, leaderboard
from fedrobust.studies.comparison.analysis import enough_draws, rank, resample
from fedrobust.studies.comparison.cell_results import COLUMNS, long_table, severity
from fedrobust.studies.comparison.results_table import ComparisonResults
from fedrobust.utils.seeding import generator
from tests.helpers.comparisons import (
    CLASSES,
    IMAGES,
    LABELS,
    RIGHT,
    answers,
    cell,
    findings,
    result,
    scores,
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ComparisonResults:
    return findings(tmp_path_factory.mktemp("cells"))


def test_a_cell_s_interval_over_images_is_that_of_its_own_bootstrap(
    found: ComparisonResults,
) -> None:
    one = found.results[-1]
    draws = resample([one], lambda _: ["clean"], 400).drops[one.folder.name, "clean"]
    predicted = one.predictions().predicted
    pair = predicted["twin_clean"], predicted["clean"]
    images = generator(0, "compare", "images")
    again = bootstrap_drop(
        PairedPredictions(LABELS, *pair, CLASSES, torch.arange(IMAGES)), generator=images, draws=400
    )
    assert torch.quantile(draws, draws.new_tensor([0.025, 0.975])).tolist() == pytest.approx(again)


def test_cells_judged_together_or_alone_get_the_same_replicates(
    found: ComparisonResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = resample(found.results[:6], lambda _: ["clean"], 50)
    monkeypatch.setattr("fedrobust.studies.comparison.analysis.MOST_COUNTS", 1)
    alone = resample(found.results[:6], lambda _: ["clean"], 50)
    assert all(torch.equal(draws, alone.drops[key]) for key, draws in together.drops.items())
    assert all(torch.equal(draws, alone.clean_f1[key]) for key, draws in together.clean_f1.items())


def test_other_test_images_are_refused(found: ComparisonResults, tmp_path: Path) -> None:
    bad = dataclasses.replace(found.results[0], folder=tmp_path)
    write_predictions(tmp_path, LABELS.flip(0), torch.arange(IMAGES), scores(0.5, 0))
    with pytest.raises(DataError, match="other test images"):
        resample([found.results[1], bad], lambda _: ["clean"], 10)


def test_the_ranking_tells_the_bad_rule_from_the_others(found: ComparisonResults) -> None:
    ranking = rank(found.poisoning(3))
    names = [found.rules[rule] for rule in ranking.order]
    assert names[-1] == "bad"
    letters = {found.rules[rule]: letter for rule, letter in ranking.letters.items()}
    assert letters["good"] == letters["same"] == "a"
    assert letters["bad"] == "b"
    # mean over the attacks of the mean over the seeds of the drops in the reports
    reports = {
        (one.cell.strategy, one.cell.contamination, one.cell.poisoned, one.cell.seed): one.report
        for one in found.results
    }
    for rule, name in enumerate(found.rules):
        values = [
            reports[name, a, 3, s].drops.poisoning.combined
            for a in found.attacks
            for s in found.seeds
        ]
        mean = ranking.means[rule]
        assert mean.value == pytest.approx(sum(values) / len(values))
        assert mean.low < mean.value < mean.high


def test_nobody_poisoned_is_no_drop(found: ComparisonResults) -> None:
    board = found.poisoning(0)
    assert [board.one(rule, 0).value for rule in range(3)] == [0, 0, 0]


def test_the_page(found: ComparisonResults) -> None:
    rankings = leaderboard.rankings_of(found)
    text = leaderboard.leaderboard(found, rankings, ["heatmap.png"])
    assert (
        "3 rules, 2 attacks, poisoned clients: 1, 3, seeds: 0, 1, 2. Finished: 45 of 45 runs."
        in text
    )
    for part in (
        "Combined poisoning drop, 3 poisoned clients",
        "Combined poisoning drop, 1 poisoned client\n",
        "Without contamination",
    ):
        assert f"## {part}" in text
    for part in ("Detection of poisoned clients", "Cost", "Pictures"):
        assert f"## {part}" in text
    # the same in all cells: 40 %, 11.1 % below the twin's worst, 20 points, 5 more than the twin's
    assert "## Worst hospital, worst class, spread" in text
    assert "| good † ‡ | 3 | 40.0 [40.0, 40.0] | 11.1 [11.1, 11.1] | 40.0" in text
    assert "## Failed" not in text
    assert "good † ‡" in text
    assert "test images only" not in text
    assert "![heatmap.png](heatmap.png)" in text
    for block in text.split("\n\n"):  # every table is whole
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1
    # 5 rounds of 10 models down and 10 up, and 10 down for evaluation, of 1000 bytes each: 110 000
    # bytes
    assert found.results[0].bytes_sent == 110_000
    assert "| 0.1 |" in text


def test_one_seed_says_that_it_is_one(tmp_path: Path) -> None:
    found = findings(tmp_path, seeds=(0,), counts=(3,), draws=30)
    text = leaderboard.leaderboard(found, leaderboard.rankings_of(found), [])
    assert "bootstrap replicates over test images only." in text
    assert "**One seed says nothing about other seeds.**" in text
    assert "30 replicates are too few for 3 pairs" in text


def test_failed_cells_are_named_and_leave_their_rule_without_a_mean(
    found: ComparisonResults,
) -> None:
    lost = [
        one
        for one in found.results
        if (one.cell.strategy, one.cell.contamination, one.cell.poisoned) == ("good", "flip", 3)
    ]
    rest = tuple(one for one in found.results if one not in lost)
    holes = dataclasses.replace(
        found, results=rest, failed={one.cell: "no | memory" for one in lost}
    )
    rankings = leaderboard.rankings_of(holes)
    text = leaderboard.leaderboard(holes, rankings, [])
    assert "| good · flip · 3 poisoned · seed 1 | no \\| memory |" in text
    assert holes.rules[rankings[3].order[-1]] == "good"
    assert "**-**" in text
    assert rankings[1].letters.keys() == {0, 1, 2}
    frame = long_table(rest, holes.failed)
    assert frame[frame.metric == "failed"].note.tolist() == ["no | memory"] * 3


def test_one_lost_seed_leaves_a_mean(found: ComparisonResults) -> None:
    lost = next(
        one
        for one in found.results
        if (one.cell.strategy, one.cell.poisoned, one.cell.seed) == ("good", 3, 1)
    )
    rest = tuple(one for one in found.results if one is not lost)
    ranking = rank(dataclasses.replace(found, results=rest).poisoning(3))
    assert set(ranking.letters) == {0, 1, 2}


def test_the_long_table(found: ComparisonResults) -> None:
    frame = long_table(found.results, {})
    again = pd.read_csv(
        io.StringIO(frame.to_csv(index=False)), keep_default_na=False, na_values=[""]
    )
    assert list(again.columns) == list(COLUMNS)
    assert not again.duplicated(["cell", "metric"]).any()
    one = again[
        (again.strategy == "bad")
        & (again.contamination == "flip")
        & (again.poisoned == 3)
        & (again.seed == 2)
    ].set_index("metric")
    report = next(r.report for r in found.results if r.folder.name == one.cell.iloc[0])
    assert one.value["drop.poisoning.combined"] == pytest.approx(report.drops.poisoning.combined)
    assert one.value["clean.f1"] == pytest.approx(report.evaluations["clean"].f1)
    assert one.share.unique().tolist() == [30.0]
    assert one.unit["bytes_sent"] == "bytes"
    assert one.value["drop.poisoning.class_recall.std"] == 5.0
    assert one.unit["drop.poisoning.class_recall.std"] == "points"
    assert one.note["bytes_sent"] == "computed"
    assert set(again[again.poisoned == 0].contamination) == {"none"}
    # by hand: the poisoned clients' weights of the last round, summed, then the mean over rounds
    sums = [
        sum(one.weight for one in record.clients if one.client < 3)
        for record in found.results[-1].rounds
        if record.clients
    ]
    assert one.value["influence.poisoned"] == pytest.approx(sum(sums) / 5)


def test_the_table_of_differences(found: ComparisonResults) -> None:
    rankings = leaderboard.rankings_of(found)
    frame = leaderboard.difference_table(found, rankings)
    assert len(frame) == 2 * 3  # 2 numbers of poisoned clients, 3 pairs of rules
    assert (frame.p_holm >= frame.p).all()
    assert ((frame.low <= frame.difference) & (frame.difference <= frame.high)).all()
    most = frame[frame.poisoned == 3].set_index(["rule", "other"])
    means = {found.rules[rule]: rankings[3].means[rule].value for rule in range(3)}
    for one, other in most.index:
        assert most.difference[one, other] == pytest.approx(means[one] - means[other])


def test_pictures(found: ComparisonResults, tmp_path: Path) -> None:
    names = figures.draw_figures(found, tmp_path)
    assert names == ["heatmap.png", "drop_by_share.png", "influence.png", "drop_by_severity.png"]
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20


def test_attacks_of_several_severities_have_a_panel_of_their_own(tmp_path: Path) -> None:
    made = []
    for (rule, right), grade in itertools.product(RIGHT.items(), (1, 3, 5)):
        one = cell(rule, f"noise{grade}", 3, 0, severity=grade)
        one = dataclasses.replace(
            one, config={**one.config, "contamination": {"_target_": "noise", "severity": grade}}
        )
        made.append(result(tmp_path, one, scores(right - grade / 20, rule, grade, 0)))
    uses = dict.fromkeys(RIGHT, frozenset[str]())
    several = ComparisonResults(
        tuple(RIGHT), ("noise1", "noise3", "noise5"), (0,), uses, tuple(made), {}, 50
    )
    assert several.severities() == [{1: "noise1", 3: "noise3", 5: "noise5"}]
    assert severity(made[0].cell) == 1
    assert "drop_by_severity.png" in figures.draw_figures(several, tmp_path / "pictures")


def test_nothing_poisoned_nothing_drawn(tmp_path: Path) -> None:
    found = findings(tmp_path, counts=(0,), draws=20)
    assert figures.draw_figures(found, tmp_path) == []
    text = leaderboard.leaderboard(found, leaderboard.rankings_of(found), [])
    assert "poisoned clients: none" in text
    assert "## Without contamination" in text


def test_how_many_replicates_are_enough() -> None:
    assert enough_draws(45, 2000)  # 10 rules: 2 x 45 / 2001 = .045
    assert not enough_draws(45, 1700)  # .053
    assert enough_draws(0, 1)


def test_made_up_answers_are_as_good_as_they_say() -> None:
    assert float((answers(0.5, "x").argmax(1) == LABELS).double().mean()) == pytest.approx(
        0.5, abs=0.1
    )
