"""How long backdoors last whose attackers leave, and whom rules flag: tables and results.csv."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedrobust.reporting.report.schedule import ScheduleSection, measure_durability
from fedrobust.studies.comparison.cell_results import Result, long_table
from fedrobust.studies.comparison.results_table import ComparisonResults
from fedrobust.studies.comparison.summary import Quantity, ResultTable, sections
from tests.helpers import comparisons


def made(tmp_path: Path, lasting: bool) -> ComparisonResults:
    """Two seeds; of rule "good" under "flip" a backdoor lasts for one round in seed 0, for three in
    seed 1."""

    def changed(one: Result) -> Result:
        if not (lasting and (one.cell.strategy, one.cell.contamination) == ("good", "flip")):
            return one
        rates = [80.0, 60.0, 20.0, 10.0] if one.cell.seed == 0 else [90.0, 40.0, 30.0, 55.0]
        section = ScheduleSection(attacked=(1, 2), durability=measure_durability(rates))
        return replace(one, report=one.report.model_copy(update={"schedule": section}))

    found = comparisons.findings(tmp_path, seeds=(0, 1), counts=(3,), draws=20)
    return replace(found, results=tuple(map(changed, found.results)))


def table(found: ComparisonResults, name: str) -> ResultTable:
    (one,) = [part for part in sections(found) if part.name == name]
    return one


def test_lifespans_by_hand(tmp_path: Path) -> None:
    found = made(tmp_path, lasting=True)
    entries = {row.rule: dict(row.entries) for row in table(found, "lifespans").rows}
    assert set(entries["good"]) == {"Poisoned", "flip"}  # no column for attacks without a backdoor
    shown = {rule: one["flip"] for rule, one in entries.items()}
    assert isinstance(shown["good"], Quantity)
    assert shown["good"].estimate.value == 2.0  # (1 + 3) / 2
    assert all(str(one) == "-" for rule, one in shown.items() if rule != "good")
    rows = long_table(found.results, {})
    for metric, wanted in (("lifespan", {1, 3}), ("at_last_attack", {80, 90})):
        assert set(rows[rows.metric == f"backdoor.{metric}"].value) == wanted


def test_without_schedules_there_is_no_table(tmp_path: Path) -> None:
    found = made(tmp_path, lasting=False)
    assert "lifespans" not in [one.name for one in sections(found)]
    assert not long_table(found.results, {}).metric.str.startswith("backdoor.").any()


def test_false_alarms_beside_attackers_and_without(tmp_path: Path) -> None:
    found = comparisons.findings(tmp_path, seeds=(0, 1), counts=(0, 3), draws=20)
    results = []
    for one in found.results:
        # one honest client has no influence in runs with attackers, nobody in the others
        clients = list(one.report.clients)
        honest = [place for place, client in enumerate(clients) if client.kind != "poisoned"]
        for place in honest:
            silent = one.cell.poisoned and place == honest[0]
            clients[place] = clients[place].model_copy(update={"weight": 0.0 if silent else 1.0})
        report = one.report.model_copy(update={"clients": tuple(clients)})
        results.append(replace(one, report=report))
    found = replace(found, results=tuple(results))
    entries = dict(table(found, "detection").rows[0].entries)
    beside, without = entries["False alarms"], entries["without attackers"]
    assert isinstance(beside, Quantity)
    assert isinstance(without, Quantity)
    attacked = [one for one in results if one.cell.poisoned]
    (honest_there,) = {sum(c.kind != "poisoned" for c in one.report.clients) for one in attacked}
    assert beside.estimate.value == pytest.approx(100 / honest_there)
    assert without.estimate.value == 0
