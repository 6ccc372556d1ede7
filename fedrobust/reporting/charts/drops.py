"""Charts of the performance drops."""

from __future__ import annotations

from collections.abc import Mapping

from fedrobust.reporting import text
from fedrobust.reporting.findings import interval_text, percent
from fedrobust.reporting.report import Report
from fedrobust.reporting.report.metrics import ConditionDrop
from fedrobust.reporting.web.bars import Bar, BarRow, bar_chart
from fedrobust.reporting.web.figures import Figure
from fedrobust.reporting.web.lines import Line, Point, level, line_chart
from fedrobust.reporting.web.scales import axis


def drop_figures(report: Report) -> tuple[Figure, ...]:
    """The combined drops, and the drop by severity where the corruption is graded."""
    drops = report.drops.present
    rows = [
        BarRow(name, (Bar("drop", "s0", drop.combined, drop.ci95, _drop_hover(name, drop)),))
        for name, drop in drops.items()
    ]
    ends = [end for drop in drops.values() for end in (drop.combined, *(drop.ci95 or ()))]
    scale = axis(ends, "% of the normal value (below 0: a gain)", include=(0,))
    found = [
        Figure(
            "Combined drop (%) with its 95 % interval",
            bar_chart("Combined drops in percent", rows, scale),
            " ".join(f"{name}: {text.DROP_MEANINGS[name]}." for name in drops),
        )
    ]
    if report.severity_drops:
        found.append(_severity_figure(report.severity_drops))
    return tuple(found)


def _drop_hover(name: str, drop: ConditionDrop) -> str:
    parts = [f"{name}: {percent(drop.combined)} {interval_text(drop.ci95)}".rstrip()]
    parts += [
        f"{text.METRIC_TITLES[metric]}: {percent(one.normal)} → {percent(one.attack)}"
        for metric, one in drop.per_metric.items()
    ]
    return "\n".join(parts)


def _severity_figure(drops: Mapping[str, ConditionDrop]) -> Figure:
    points = []
    for name, drop in drops.items():
        severity = float(name.rpartition("_s")[2])
        hover = _drop_hover(f"severity {severity:g}", drop)
        points.append(Point(severity, drop.combined, hover, drop.ci95))
    ends = [end for drop in drops.values() for end in (drop.combined, *(drop.ci95 or ()))]
    x = axis([point.x for point in points], "Severity of the corruption", whole=True)
    y = axis(ends, "Combined drop, %", include=(0,), most=8)
    line = Line("severity", "s3", tuple(points))
    return Figure(
        "Drop (%) against severity",
        line_chart("Combined drop by severity", [line], x, y, guides=[level(0, y)]),
        "This run's model, from clean test images to images corrupted with each severity; lines "
        "with caps: 95 % intervals.",
    )
