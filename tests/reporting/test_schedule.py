"""The rounds in which poisoned clients attacked, and how long a backdoor lasts after them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedrobust.reporting import text
from fedrobust.reporting.charts import figure_sections
from fedrobust.reporting.findings import further_sentences
from fedrobust.reporting.report.schedule import (
    ScheduleSection,
    measure_durability,
    schedule_section,
)
from fedrobust.types import ATTACKS, SUCCESS, RoundRecord
from tests.helpers import reports


def records(attacks: list[int], rates: list[float] | None = None) -> list[RoundRecord]:
    """Rounds 0, 1, ...: whether there was an attack, and the success after each."""
    found = [RoundRecord(0, {}, extras={} if rates is None else {SUCCESS: 1.0})]
    for number, attack in enumerate(attacks, 1):
        extras = {ATTACKS: float(attack)}
        extras |= {} if rates is None else {SUCCESS: rates[number - 1]}
        found.append(RoundRecord(number, {}, extras=extras))
    return found


def test_the_lifespan_golden() -> None:
    # 60 % and 55 % two rounds after the last attack are above a half, 50 % is not
    assert measure_durability([90.0, 40.0, 55.0, 50.0]).lifespan == 2
    assert measure_durability([90.0, 50.0]).lifespan == 0
    assert measure_durability([10.0, 60.0]).lifespan == 1


def test_the_section() -> None:
    found = schedule_section(records([0, 1, 1, 0, 0], [2.0, 80.0, 90.0, 70.0, 30.0]))
    assert found is not None
    assert found.attacked == (2, 3)
    assert found.durability == measure_durability([90.0, 70.0, 30.0])
    assert found.durability.lifespan == 1


@pytest.mark.parametrize(
    ("attacks", "rates"),
    [([0, 1], [1.0, 2.0]), ([1, 0], None), ([0, 0], [1.0, 2.0])],
    ids=["no round after", "no backdoor", "never attacked"],
)
def test_where_nothing_can_last(attacks: list[int], rates: list[float] | None) -> None:
    found = schedule_section(records(attacks, rates))
    assert found is not None
    assert found.durability is None


def test_a_run_without_a_schedule_has_no_section() -> None:
    assert schedule_section([RoundRecord(1, {}, extras={"epsilon": 1.0})]) is None


@pytest.mark.parametrize(
    ("attacked", "words"),
    [
        ((), "attacks in no round"),
        ((3,), "attacks in round 3"),
        ((1, 3, 4, 5, 7), "attacks in rounds 1, 3 to 5, 7"),
    ],
)
def test_rounds_in_words(attacked: tuple[int, ...], words: str) -> None:
    assert text.attacked_rounds(ScheduleSection(attacked=attacked)) == words


def test_what_is_shown() -> None:
    found = schedule_section(records([1, 1, 0, 0, 0], [50.0, 90.0, 70.0, 60.0, 20.0]))
    assert found is not None
    line = text.schedule_text(found, 5)
    assert line == (
        "poisoned clients: attacks in rounds 1 to 2 of 5; attack success rate 90.0 % after the "
        "last attack, 20.0 % 3 rounds later, above 50 % for the last time 2 rounds after it"
    )
    report = reports.typed(reports.full_report()).model_copy(update={"schedule": found})
    assert line in text.attack_lines(report)
    assert f"P{line[1:]}." in further_sentences(report)
    shown = [replace(one, metrics={}) for one in records([1, 1, 0, 0, 0], [50, 90, 70, 60, 20])]
    sections = figure_sections(report, {"run": shown}, ["a", "b", "c"])
    titles = [figure.title for one in sections for figure in one.figures]
    assert "Attack success rate (%) over the rounds" in titles
