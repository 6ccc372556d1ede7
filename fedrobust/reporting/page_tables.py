"""The sortable tables of a run's page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from fedrobust.reporting import own_models, spreads, text
from fedrobust.reporting.report import Report
from fedrobust.reporting.report.fairness import SpreadValue, WorstValue
from fedrobust.reporting.web.tables import Cell, table
from fedrobust.types import RoundRecord

EVASION_HEADS: Final = (
    "Attacker",
    "eps (255ths)",
    "Purifier",
    "Balanced accuracy (%)",
    "95 % interval (%)",
    "Combined drop (%)",
    "Recovered (%)",
)
DROP_HEADS: Final = (
    "Drop",
    "Metric",
    "Normal → attack (%)",
    "Drop (% of normal)",
    "95 % interval (%)",
)


SPREAD_HEADS: Final = (
    "Over",
    "Measure",
    "Images",
    "Clean twin",
    "95 % interval",
    "This run",
    "95 % interval",
    "Change",
    "95 % interval",
)


def page_tables(report: Report, lines: Sequence[tuple[str, RoundRecord]]) -> dict[str, Markup]:
    """All tables by name.

    Args:
        report: of the run.
        lines: the rounds, each with the name of its run.
    """
    found = {
        "evaluations": evaluation_table(report),
        "drops": drop_table(report),
        "spreads": spread_table(report),
        "clients": client_table(report),
        "rounds": round_table(lines),
    }
    if rows := own_models.own_rows(report.clients):
        found["own_models"] = table(own_models.OWN_COLUMNS, rows, words=2)
    if rows := own_models.site_drop_rows(report.site_drops):
        found["site_drops"] = table(own_models.DROPS_COLUMNS, rows, words=2, sortable=False)
    section = report.evasion
    if section is not None:
        found["evasion"] = table(EVASION_HEADS, text.evasion_rows(section), words=3, sortable=False)
        if section.fusion is not None:
            rows = text.evasion_rows(section.fusion)
            found["fusion"] = table(EVASION_HEADS, rows, words=3, sortable=False)
        if section.clients:
            rows = text.member_rows(section, report.clients)
            found["members"] = table(text.member_columns(section), rows, words=2)
    return found


def number(value: float | None, digits: int = 1) -> Cell:
    """A number that sorts by its exact value."""
    return Cell(text.format_number(value, digits), value)


def evaluation_table(report: Report) -> Markup:
    """A row an evaluation."""
    columns = ("Model on", *(f"{name} (%)" for name in text.METRIC_TITLES.values()), "Images")
    rows: list[tuple[Cell | str, ...]] = [
        (
            text.metric_label(name),
            *(number(value) for value in report.evaluations[name].values.values()),
            number(report.evaluations[name].n, 0),
        )
        for name in text.evaluation_names(report.evaluations)
    ]
    return table(columns, rows)


def drop_table(report: Report) -> Markup:
    """Every metric of each drop, then its combined drop."""
    rows = [
        tuple(Cell(cell, look="sum" if row[1] == text.COMBINED else "") for cell in row)
        for row in text.drop_rows(report.drops)
    ]
    return table(DROP_HEADS, rows, words=2, sortable=False)


def spread_table(report: Report) -> Markup:
    """Worst case and spread over hospitals and classes, clean and corrupted, each beside the clean
    twin's on clean images; empty for reports of earlier versions."""
    section = report.fairness
    if section is None:
        return Markup("")
    rows = []
    twin = section.evaluations.get("twin_clean", {})
    for images, drop in (("clean", "poisoning"), ("corrupted", "total")):
        for name, found in section.evaluations.get(images, {}).items():
            change = section.drops.get(drop, {}).get(name)
            for measure, words in spreads.MEASURES.items():
                moved = getattr(change, measure, None)
                rows.append(
                    (
                        spreads.SPREAD_TITLES[name],
                        words,
                        images,
                        *_bounded_cells(getattr(twin.get(name), measure, None)),
                        *_bounded_cells(getattr(found, measure)),
                        Cell(spreads.change_text(moved), moved and moved.value),
                        text.format_interval(moved and moved.ci95),
                    )
                )
    return table(SPREAD_HEADS, rows, words=3)


def _bounded_cells(one: WorstValue | SpreadValue | None) -> tuple[Cell, str]:
    if one is None:
        return Cell("-", math.nan), "-"
    return number(one.value), text.format_interval(one.ci95)


def client_table(report: Report) -> Markup:
    """A row a hospital."""
    columns = (
        "Hospital",
        "Kind",
        "Training images",
        "Test images",
        "Influence (0 to 1)",
        "Accuracy, clean (%)",
        "Balanced, clean (%)",
        "Balanced, contaminated (%)",
        "Combined drop (%)",
    )
    rows = [
        (
            Cell(text.client_name(one), one.id),
            Cell(one.kind, look=one.kind),
            number(one.num_examples, 0),
            number(one.clean.n, 0),
            number(one.weight, 3),
            number(one.clean.accuracy),
            number(one.clean.balanced_accuracy),
            number(one.contaminated.balanced_accuracy),
            Cell(text.drop_text(one.combined_drop), one.combined_drop),
        )
        for one in report.clients
    ]
    return table(columns, rows, words=2)


def round_table(lines: Sequence[tuple[str, RoundRecord]]) -> Markup:
    """A row a round of the run and of its clean twin."""
    metrics = {name: f"{title} (%)" for name, title in text.METRIC_NAMES.items()}
    rows: list[tuple[Cell | str, ...]] = [
        (
            run,
            number(record.number, 0),
            *(number(record.metrics.get(name)) for name in metrics),
            number(sum(record.seconds.values())),
            number(len(record.failures), 0),
        )
        for run, record in lines
    ]
    return table(("Run", "Round", *metrics.values(), "Time (s)", "Failures"), rows)
