"""Worst cases and spreads as rows and sentences, for the screen and the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedrobust.evaluation.fairness import RECALL
from fedrobust.reporting import text
from fedrobust.reporting.report import Report
from fedrobust.reporting.report.fairness import (
    FairnessSection,
    SpreadChange,
    SpreadGrowth,
    SpreadSection,
    SpreadValue,
    WorstDrop,
    WorstValue,
)
from fedrobust.utils.counting import format_count

SPREAD_NAMES: Final[dict[str, str]] = {
    "site_accuracy": "hospitals: accuracy",
    "site_balanced_accuracy": "hospitals: balanced",
    "class_recall": "classes: recall",
}
SPREAD_TITLES: Final[dict[str, str]] = SPREAD_NAMES | {
    "site_balanced_accuracy": "hospitals: balanced accuracy"
}
MEASURES: Final[dict[str, str]] = {
    "worst": "worst",
    "std": "standard deviation",
    "range": "largest - smallest",
}
TWIN_COLUMNS: Final = ("Over", "Measure", "normal → attack", "change", "95 % interval")
ALONE_COLUMNS: Final = ("Over", "Measure", "value", "95 % interval")
SPREAD_MEANING: Final = (
    "worst cases and spread: on clean test images; normal: the clean twin, attack: this run; "
    "change: of the worst value its drop, of the others attack minus normal in percentage points "
    "(above 0: spread wider)"
)
Change = WorstDrop | SpreadGrowth


def spread_columns(report: Report) -> tuple[str, ...]:
    """The columns of `spread_rows`: with a clean twin those of a comparison."""
    section = report.fairness
    return TWIN_COLUMNS if section and "poisoning" in section.drops else ALONE_COLUMNS


def spread_rows(report: Report) -> list[tuple[str, ...]]:
    """Rows under `spread_columns`: worst case and spread over hospitals and over classes."""
    section = report.fairness
    if section is None:
        return []
    changes = section.drops.get("poisoning")
    rows = []
    for name, found in section.evaluations["clean"].items():
        before = section.evaluations.get("twin_clean", {}).get(name)
        change = None if changes is None else changes.get(name)
        for place, (measure, words) in enumerate(MEASURES.items()):
            lead = ("" if place else SPREAD_NAMES[name], words)
            rows.append((*lead, *_cells(found, before, change, measure, compared=bool(changes))))
    return rows


def _cells(
    found: SpreadSection,
    before: SpreadSection | None,
    change: SpreadChange | None,
    measure: str,
    *,
    compared: bool,
) -> tuple[str, ...]:
    one: WorstValue | SpreadValue = getattr(found, measure)
    if not compared:
        return text.format_number(one.value), text.format_interval(one.ci95)
    normal = None if before is None else getattr(before, measure).value
    moved: Change | None = None if change is None else getattr(change, measure)
    values = f"{text.format_number(normal)} → {text.format_number(one.value)}"
    return values, change_text(moved), text.format_interval(moved.ci95 if moved else None)


def change_text(one: Change | None) -> str:
    """A drop, or the growth of a spread with its sign."""
    if one is None or one.value is None:
        return "-"
    if isinstance(one, WorstDrop):
        return text.drop_text(one.value)
    shown = text.format_number(one.value)
    return shown if one.value < 0 or float(shown) == 0 else f"+{shown}"


def spread_notes(report: Report, classes: Sequence[str]) -> list[str]:
    """Which hospital and class are the worst, and which were left out.

    Args:
        report: of the run.
        classes: names of the classes; empty: unknown.
    """
    section = report.fairness
    if section is None:
        return []
    notes = [SPREAD_MEANING] if "poisoning" in section.drops else []
    notes += _worst_notes(report, section, classes)
    for members, what in (
        ([client_label(report, one) for one in section.sites_left_out], "hospital"),
        ([class_label(one, classes) for one in section.classes_left_out], "class"),
    ):
        if members:
            notes.append(
                f"left out, with fewer than {format_count(section.min_images, 'test image')}: "
                f"{what} {', '.join(members)}"
            )
    return notes


def _worst_notes(report: Report, section: FairnessSection, classes: Sequence[str]) -> list[str]:
    notes = []
    for name, found in section.evaluations["clean"].items():
        if found.worst_member is None:
            continue
        before = section.evaluations.get("twin_clean", {}).get(name)
        words = f"worst of {SPREAD_NAMES[name]}: {member_label(report, name, found, classes)}"
        if before is not None and before.worst_member is not None:
            words += f" (clean twin: {member_label(report, name, before, classes)})"
        notes.append(words)
    return notes


def member_label(
    report: Report, quantity: str, found: SpreadSection, classes: Sequence[str]
) -> str:
    """The hospital or class with the smallest value."""
    if found.worst_member is None:
        return "-"
    if quantity == RECALL:
        return class_label(found.worst_member, classes)
    return client_label(report, found.worst_member)


def client_label(report: Report, number: int) -> str:
    """A client's number and, where it stands for sites, their names."""
    found = [one for one in report.clients if one.id == number]
    return text.client_name(found[0]) if found else str(number)


def class_label(number: int, classes: Sequence[str]) -> str:
    """A class's name, its number where the name is unknown."""
    return classes[number] if number < len(classes) else str(number)
