"""Charts of worst cases and spreads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedrobust.reporting import spreads
from fedrobust.reporting.findings import interval_text, percent
from fedrobust.reporting.report import Report
from fedrobust.reporting.report.fairness import FairnessSection, SpreadSection
from fedrobust.reporting.web.bars import Bar, BarRow, bar_chart
from fedrobust.reporting.web.figures import Figure, Key
from fedrobust.reporting.web.scales import Axis, axis, percent_axis
from fedrobust.utils.counting import format_count

SIDES: Final = {  # evaluation: its key, colour and name
    "clean": ("run", "s1", "this run"),
    "twin_clean": ("twin", "s0", "clean twin"),
    "corrupted": ("corrupted", "s3", "this run, corrupted images"),
}


def spread_figures(report: Report, classes: Sequence[str]) -> tuple[Figure, ...]:
    """The worst hospital and class, and how far hospitals and classes differ; none for reports of
    earlier versions."""
    section = report.fairness
    if section is None or not section.evaluations["clean"]:
        return ()
    found = [_worst_figure(report, section, classes)]
    if any(one.std.value is not None for one in section.evaluations["clean"].values()):
        found.append(_spread_figure(report, section, classes))
    return tuple(found)


def _worst_figure(report: Report, section: FairnessSection, classes: Sequence[str]) -> Figure:
    rows = _rows(report, section, "worst", classes)
    return Figure(
        "Worst hospital and worst class (%)",
        bar_chart("Worst cases in percent", rows, percent_axis("Smallest value, %")),
        "The smallest value of all hospitals (accuracy and balanced accuracy on their own clean "
        "test images) and of all classes (recall), each model's own worst; 95 % intervals by "
        f"bootstrap over the same images. Hospitals and classes with fewer than "
        f"{format_count(section.min_images, 'test image')} are left out. The smallest of "
        "several small samples lies below what a larger sample would show: compare it with the "
        "clean twin's.",
        _keys(section),
    )


def _spread_figure(report: Report, section: FairnessSection, classes: Sequence[str]) -> Figure:
    rows = _rows(report, section, "std", classes)
    ends = [end for row in rows for bar in row.bars for end in (bar.value, *(bar.interval or ()))]
    scale: Axis = axis(ends, "Standard deviation, percentage points", include=(0,))
    return Figure(
        "Spread over hospitals and classes (standard deviation, percentage points)",
        bar_chart("Standard deviations", rows, scale),
        "0: all hospitals, or all classes, fare alike. Small test sets alone give some spread, to "
        "the clean twin as well.",
        _keys(section),
    )


def _sides(section: FairnessSection) -> list[str]:
    return [name for name in SIDES if name in section.evaluations]


def _keys(section: FairnessSection) -> tuple[Key, ...]:
    return tuple(Key(*SIDES[name]) for name in _sides(section))


def _rows(
    report: Report, section: FairnessSection, measure: str, classes: Sequence[str]
) -> list[BarRow]:
    rows = []
    for quantity in section.evaluations["clean"]:
        bars = []
        for name in _sides(section):
            spread = section.evaluations[name].get(quantity)
            if spread is not None:
                bars.append(_bar(report, (name, quantity, measure), spread, classes))
        rows.append(BarRow(spreads.SPREAD_TITLES[quantity], tuple(bars)))
    return rows


def _bar(
    report: Report, what: tuple[str, str, str], spread: SpreadSection, classes: Sequence[str]
) -> Bar:
    evaluation, quantity, measure = what
    key, look, side = SIDES[evaluation]
    one = getattr(spread, measure)
    hover = f"{spreads.SPREAD_TITLES[quantity]}, {side}\n{spreads.MEASURES[measure]}: "
    hover += f"{percent(one.value)} {interval_text(one.ci95)}".rstrip()
    if measure == "worst":
        hover += f"\n{spreads.member_label(report, quantity, spread, classes)}"
    return Bar(key, look, one.value, one.ci95, hover)
