"""Charts of the classes: recall, and confusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedrobust.evaluation.fairness import RECALL
from fedrobust.evaluation.statistics import wilson_interval
from fedrobust.reporting.findings import class_hits, interval_text, percent
from fedrobust.reporting.report import Report
from fedrobust.reporting.report.details import PredictionDetails
from fedrobust.reporting.web.bars import Bar, BarRow, bar_chart
from fedrobust.reporting.web.figures import Figure, Key
from fedrobust.reporting.web.matrices import heat_map
from fedrobust.reporting.web.scales import percent_axis
from fedrobust.utils.counting import format_count

MOST_CLASSES: Final = 30  # bars of classes; cells of a matrix
Shares = list[list[float | None]]


def class_figures(report: Report, classes: list[str]) -> tuple[Figure, ...]:
    """Recall and confusion of this run and its twin; none where classes are unknown or too many."""
    run, twin = class_hits(report, "clean"), class_hits(report, "twin_clean")
    if not run or len(run) > MOST_CLASSES:
        return ()
    names = classes if len(classes) == len(run) else [f"class {k}" for k in range(len(run))]
    found = [_recall_figure(report, names, run, twin)]
    details = report.details or {}
    shares = _shares(details["clean"])
    if twin:
        before = _shares(details["twin_clean"])
        found.append(_difference_figure(names, shares, before))
        found.append(_confusion_figure("the clean twin", names, before))
    found.append(_confusion_figure("this run", names, shares))
    return tuple(found)


def _recall_figure(
    report: Report,
    names: Sequence[str],
    run: Sequence[tuple[int, int]],
    twin: Sequence[tuple[int, int]],
) -> Figure:
    sides = [("run", "s1", "this run", run)]
    sides += [("twin", "s0", "clean twin", twin)] if twin else []
    rows = []
    for place, name in enumerate(names):
        bars = []
        for key, look, side, hits in sides:
            right, images = hits[place]
            value = 100 * right / images if images else None
            interval = wilson_interval(right, images)
            hover = (
                f"{name}, {side}\nrecall {percent(value)} {interval_text(interval)}\n"
                f"{right} of {format_count(images, 'image')}"
            )
            bars.append(Bar(key, look, value, interval, hover))
        rows.append(BarRow(name, tuple(bars)))
    spread = report.fairness and report.fairness.evaluations["clean"].get(RECALL)
    caption = (
        "Share of each class's clean test images that is recognised; 95 % intervals by Wilson's "
        "score, images as independent."
    )
    if spread and spread.worst_member is not None:
        caption += f" Worst class of this run: {names[spread.worst_member]}."
    return Figure(
        "Recall (%) of each class",
        bar_chart("Recall by class", rows, percent_axis("Recall, %")),
        caption,
        tuple(Key(key, look, side) for key, look, side, _ in sides),
    )


def _shares(details: PredictionDetails) -> Shares:
    """Percent of each true class's images; None in rows without images."""
    return [
        [100 * count / sum(row) if sum(row) else None for count in row]
        for row in details.confusion or ()
    ]


def _confusion_figure(model: str, names: Sequence[str], shares: Shares) -> Figure:
    hovers = [
        [
            f"true {true}, predicted {guess}: {percent(value)}"
            for guess, value in zip(names, row, strict=True)
        ]
        for true, row in zip(names, shares, strict=True)
    ]
    return Figure(
        f"Confusion of {model} (% of the true class)",
        heat_map("Confusion matrix", shares, (names, names), hovers, 100.0),
        "Clean test images; rows: true class, columns: predicted class.",
    )


def _difference_figure(names: Sequence[str], run: Shares, twin: Shares) -> Figure:
    change: Shares = [
        [
            None if one is None or other is None else one - other
            for one, other in zip(row, before, strict=True)
        ]
        for row, before in zip(run, twin, strict=True)
    ]
    hovers = [
        [
            f"true {true}, predicted {guess}\nclean twin {percent(twin[i][j])}, this run "
            f"{percent(run[i][j])}"
            for j, guess in enumerate(names)
        ]
        for i, true in enumerate(names)
    ]
    most = max((abs(one) for row in change for one in row if one is not None), default=0.0)
    return Figure(
        "Confusion of this run minus the clean twin's (percentage points)",
        heat_map("Difference of confusion", change, (names, names), hovers, max(most, 10.0)),
        "Blue: more often than by the twin, red: less often. A class that lost recall "
        "is red on the diagonal.",
    )
