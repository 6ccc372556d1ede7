"""Charts of the hospitals: accuracy at each, and its images of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedrobust.reporting import text
from fedrobust.reporting.charts.classes import MOST_CLASSES
from fedrobust.reporting.findings import accuracy_interval, interval_text, percent
from fedrobust.reporting.report import Report
from fedrobust.reporting.report.sections import ClientResult
from fedrobust.reporting.web.bars import Bar, BarRow, Stack, bar_chart, stacked_chart
from fedrobust.reporting.web.figures import Figure, Key
from fedrobust.reporting.web.scales import percent_axis
from fedrobust.utils.counting import format_count

MOST_CLIENTS: Final = 30  # bars of hospitals; lines with marks and names
COLOURS, TONES = 8, 3  # of classes; a ninth has the first colour in a lighter tone


def client_figures(report: Report, classes: list[str]) -> tuple[Figure, ...]:
    """Accuracy at each hospital, and how the partition shares out the images."""
    known = [one for one in report.clients if one.clean.accuracy is not None]
    found = [_accuracy_figure(report, known)] if known else []
    images = report.setup.client_images if report.setup else None
    if images and classes:
        found.append(_partition_figure(report, images, classes))
    return tuple(found)


def _accuracy_figure(report: Report, known: Sequence[ClientResult]) -> Figure:
    order = sorted(known, key=lambda one: one.clean.accuracy or 0.0)
    rows = []
    for one in order[:MOST_CLIENTS]:
        bars = []
        for condition, look in (("clean", "s0"), ("contaminated", "s1")):
            if condition == "clean" or one.kind != "clean":
                metrics, interval = getattr(one, condition), accuracy_interval(one, condition)
                hover = (
                    f"hospital {text.client_name(one)} ({one.kind}), {condition} images\naccuracy "
                    f"{percent(metrics.accuracy)} {interval_text(interval)}\nbalanced "
                    f"{percent(metrics.balanced_accuracy)}, {format_count(metrics.n, 'image')}"
                )
                bars.append(Bar(condition, look, metrics.accuracy, interval, hover))
        rows.append(BarRow(text.client_name(one), tuple(bars), one.kind))
    caption = (
        "This run's model on each hospital's own test images, the worst hospital on top"
        f": {text.client_name(order[0])}; contaminated: the same images under that hospital's "
        "contamination. 95 % intervals by "
        f"Wilson's score, images as independent.{_kind_note(report)}"
    )
    if len(order) > MOST_CLIENTS:
        caption += f" {len(order) - MOST_CLIENTS} better ones are in the table only."
    contaminated = any(one.kind != "clean" for one in order[:MOST_CLIENTS])
    keys = (Key("clean", "s0", "clean"), Key("contaminated", "s1", "contaminated"))
    return Figure(
        "Accuracy (%) at each hospital",
        bar_chart("Accuracy by hospital", rows, percent_axis("Accuracy, %")),
        caption,
        keys if contaminated else (),
    )


def _kind_note(report: Report) -> str:
    """Which names are bold, where any are."""
    kinds = [kind for kind, count in text.count_kinds(report).items() if count and kind != "clean"]
    return f" Bold names: {' and '.join(kinds)} hospitals." if kinds else ""


def _partition_figure(
    report: Report, images: Sequence[Sequence[int]], classes: Sequence[str]
) -> Figure:
    looks = [f"s{place % COLOURS} t{place // COLOURS % TONES}" for place in range(len(classes))]
    rows = [
        Stack(
            text.client_name(one),
            tuple(
                (f"class{k}", looks[k], float(count), _partition_hover(one, classes[k], count))
                for k, count in enumerate(images[one.id])
            ),
            one.kind,
        )
        for one in report.clients[: 2 * MOST_CLIENTS]
    ]
    keys = tuple(Key(f"class{k}", looks[k], name) for k, name in enumerate(classes[:MOST_CLASSES]))
    more = len(report.clients) - len(rows)
    return Figure(
        "Images of each class at each hospital",
        stacked_chart("Images by hospital and class", rows, "Images"),
        f"How the partition shares out the images of all three splits.{_kind_note(report)}"
        + (f" {more} further hospitals are not shown." if more > 0 else ""),
        keys,
    )


def _partition_hover(one: ClientResult, name: str, count: int) -> str:
    return f"hospital {text.client_name(one)}\n{name}: {format_count(count, 'image')}"
