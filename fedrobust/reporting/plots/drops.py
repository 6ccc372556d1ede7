"""Bars of the combined performance drops with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedrobust.reporting.plots.style import (
    FONT_SIZE,
    INK,
    LINE_COLOURS,
    new_figure,
    save_figure,
    tidy,
)
from fedrobust.reporting.report.metrics import DropsSection
from fedrobust.reporting.text import format_number


def plot_drops(drops: DropsSection, path: Path) -> Path:
    """One bar a drop of report.json, in percent, with its 95 % interval; a negative bar is a gain,
    an undefined drop has no bar."""
    names = list(drops.present)
    combined = [drop.combined for drop in drops.present.values()]
    figure = new_figure(7.0, 0.9 + 0.55 * len(names))
    axes = figure.subplots()
    axes.barh(names, [value or 0.0 for value in combined], color=LINE_COLOURS[0], height=0.6)
    for place, drop in enumerate(drops.present.values()):
        _annotate(axes, place, drop.combined, drop.ci95)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    tidy(axes, "Combined drop with its 95 % interval", "% of the normal value (negative: gain)")
    axes.grid(visible=False, axis="y")
    return save_figure(figure, path)


def _annotate(axes: Any, place: int, value: float | None, ci95: tuple[float, float] | None) -> None:
    """The interval as a line with caps and the number beyond the farther end."""
    low, high = (value or 0.0, value or 0.0) if ci95 is None else ci95
    if ci95 is not None:
        axes.plot(ci95, [place, place], color=INK, linewidth=1.2, marker="|", markersize=8)
    right = (value or 0.0) >= 0
    edge = max(high, value or 0.0) if right else min(low, value or 0.0)
    text = "undefined" if value is None else format_number(value)
    offset, side = (6, "left") if right else (-6, "right")
    axes.annotate(
        text,
        (edge, place),
        (offset, 0),
        textcoords="offset points",
        va="center",
        ha=side,
        fontsize=FONT_SIZE,
        color=INK,
    )
