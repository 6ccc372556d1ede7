"""The ranking on the screen at the end of a comparison."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from fedrobust.studies.comparison import leaderboard
from fedrobust.studies.comparison.results_table import ComparisonResults
from fedrobust.studies.comparison.screen import ranking_tables
from fedrobust.studies.comparison.summary import format_estimate
from tests.helpers.comparisons import findings


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ComparisonResults:
    return findings(tmp_path_factory.mktemp("cells"), seeds=(0, 1), draws=100)


def shown(found: ComparisonResults, width: int = 120) -> str:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(ranking_tables(found, leaderboard.rankings_of(found)))
    return str(screen.file.getvalue())  # type: ignore[attr-defined]


def test_the_best_rule_stands_on_top_of_each_table(found: ComparisonResults) -> None:
    text = shown(found)
    first, second = text.split("Ranking under 1 poisoned client")
    assert "Ranking under 3 poisoned clients" in first
    assert "poisoned clients" not in second
    rules = re.findall(r"^ *(good|same|bad)\b", first, re.MULTILINE)
    assert sorted(rules[:2]) == ["good", "same"]
    assert rules[2] == "bad"
    assert "lower is better" in text
    assert "† uses the server's labelled root images" in text


def test_its_numbers_are_those_of_the_leaderboard(found: ComparisonResults) -> None:
    rankings = leaderboard.rankings_of(found)
    for poisoned, ranking in rankings.items():
        page = leaderboard.drops(found, ranking, poisoned)
        for mean in ranking.means:
            assert format_estimate(mean) in page
            assert format_estimate(mean) in shown(found)


def test_the_table_of_rankings_has_the_same_numbers(found: ComparisonResults) -> None:
    rankings = leaderboard.rankings_of(found)
    table = leaderboard.ranking_frame(found, rankings)
    assert list(table["poisoned"].unique()) == [1, 3]
    for poisoned, ranking in rankings.items():
        rows = table[table["poisoned"] == poisoned]
        assert list(rows["place"]) == list(range(1, len(ranking.order) + 1))
        assert list(rows["rule"]) == [found.rules[rule] for rule in ranking.order]
        for rule, (_, row) in zip(ranking.order, rows.iterrows(), strict=True):
            mean = ranking.means[rule]
            assert (row["mean"], row["low"], row["high"]) == (mean.value, mean.low, mean.high)
            values = [ranking.table.one(rule, attack).value for attack in range(len(found.attacks))]
            assert list(row[list(found.attacks)]) == values
            assert row["worst"] == max(value for value in values if value is not None)


def test_a_narrow_screen_cuts_no_number(found: ComparisonResults) -> None:
    numbers = [format_estimate(one) for one in leaderboard.rankings_of(found)[3].means]
    narrow = shown(found, 40)
    assert all(number in narrow for number in numbers)


def test_without_poisoned_clients_the_clean_twins_are_shown(tmp_path: Path) -> None:
    text = shown(findings(tmp_path, seeds=(0,), counts=(0,), draws=100))
    assert "Without contamination" in text
    assert "Macro F1" in text
    assert "Ranking" not in text
