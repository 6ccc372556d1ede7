"""The table of what clean hospitals lose, and the rows of it in results.csv."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedrobust.reporting.report.metrics import ClientsDrop
from fedrobust.reporting.report.personal import SiteDrops, SiteDropsSection
from fedrobust.studies.comparison.cell_results import Result, long_table
from fedrobust.studies.comparison.results_table import ComparisonResults
from fedrobust.studies.comparison.summary import Quantity, sections
from tests.helpers import comparisons


def drops(clean: float) -> SiteDrops:
    """Clean hospitals lose so much, the poisoned ones 50 %."""
    kinds = {"clean": clean, "poisoned": 50.0}
    found = ClientsDrop.model_validate(
        {
            **{"per_metric": {}, "combined": 20.0, "ci95": None, "skipped": ()},
            "by_kind": {
                kind: {"combined": value, "num_clients": 5} for kind, value in kinds.items()
            },
        }
    )
    return SiteDrops(poisoning=found)


def with_own_models(one: Result) -> Result:
    if one.cell.strategy != "good":
        return one
    lost = 1.0 + 2 * one.cell.seed
    section = SiteDropsSection(global_model=drops(10 * lost), personal_models=drops(lost))
    return replace(one, report=one.report.model_copy(update={"site_drops": section}))


@pytest.fixture
def found(tmp_path: Path) -> ComparisonResults:
    """Only the rule "good" has own models: their hospitals lose 1 % in seed 0 and 3 % in seed 1,
    with the global model ten times as much."""
    made = comparisons.findings(tmp_path, seeds=(0, 1), counts=(3,), draws=50)
    return replace(made, results=tuple(map(with_own_models, made.results)))


def test_means_over_seeds_by_hand(found: ComparisonResults) -> None:
    (table,) = [one for one in sections(found) if one.name == "clean_hospitals"]
    rows = [(row.rule, row.poisoned, dict(row.entries)) for row in table.rows]
    assert [(rule, poisoned, one["Model"]) for rule, poisoned, one in rows] == [
        ("good", 3, "global"),
        ("good", 3, "own"),
    ]
    # (10 + 30) / 2 and (1 + 3) / 2, under either attack and in their mean
    for (_, _, entries), wanted in zip(rows, (20.0, 2.0), strict=True):
        for head in ("flip", "noise", "Mean"):
            entry = entries[head]
            assert isinstance(entry, Quantity)
            assert entry.estimate.value == pytest.approx(wanted)


def test_without_drops_over_hospitals_there_is_no_table(tmp_path: Path) -> None:
    plain = comparisons.findings(tmp_path, seeds=(0,), counts=(3,), draws=20)
    assert "clean_hospitals" not in [one.name for one in sections(plain)]


def test_rows_of_the_long_table(found: ComparisonResults) -> None:
    table = long_table(found.results, {})
    rows = table[table.metric == "site_drop.personal.poisoning.clean"]
    assert set(rows.strategy) == {"good"}
    assert set(rows.value) == {1.0, 3.0}
    kinds = {name for name in table.metric if name.startswith("site_drop.global.")}
    assert kinds == {f"site_drop.global.poisoning.{kind}" for kind in ("all", "clean", "poisoned")}


def test_mean_metrics_over_hospitals_by_hand(found: ComparisonResults) -> None:
    def changed(one: Result) -> Result:
        given = one.report.clients
        clients = [
            client.model_copy(
                update={"clean": client.clean.model_copy(update={"accuracy": 10.0 * (n + 1)})}
            )
            for n, client in enumerate(given)
        ]
        return replace(one, report=one.report.model_copy(update={"clients": tuple(clients)}))

    results = tuple(changed(one) for one in found.results)
    table = long_table(results, {})
    (kinds,) = {tuple(client.kind for client in one.report.clients) for one in results}
    for kind in ("clean", "poisoned"):
        rows = table[table.metric == f"site.global.clean.accuracy.{kind}"]
        wanted = [10.0 * (n + 1) for n, one in enumerate(kinds) if one == kind]
        assert set(rows.strategy) == {"good"}  # the only rule with drops over hospitals
        assert set(rows.value) == {sum(wanted) / len(wanted)}
