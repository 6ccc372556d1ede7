"""Horizontal bars: with intervals, or stacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedrobust.reporting.web.markup import join, shorten
from fedrobust.reporting.web.parts import (
    WIDTH,
    Frame,
    chart,
    fitting,
    horizontal_axis,
    label,
    line,
    mark,
    name_width,
    rect,
    series,
)
from fedrobust.reporting.web.scales import Axis, axis, tick_text

WIDEST_NAME = 150.0
GAP = 9.0  # between rows
THICK, THICKER = 13.0, 17.0  # of a bar; in a chart of a few single bars
FEW = 8
VALUE = 42.0  # room for a number beyond a bar


@dataclass(frozen=True, slots=True)
class Bar:
    """One value. key: of its series; look: the class that colours it; interval: (low, high); hover:
    what it says."""

    key: str
    look: str
    value: float | None
    interval: tuple[float, float] | None = None
    hover: str = ""


@dataclass(frozen=True, slots=True)
class BarRow:
    """Bars under one name. look: a class of the name."""

    name: str
    bars: tuple[Bar, ...]
    look: str = ""


def bar_chart(title: str, rows: Sequence[BarRow], scale: Axis) -> Markup:
    """Rows of bars from 0, each with its interval as a line with caps and its value as a number.

    Args:
        title: for those who cannot see it.
        rows: from top to bottom.
        scale: of the values; holds 0.
    """
    left = name_width((row.name for row in rows), WIDEST_NAME)
    single = len(rows) <= FEW and all(len(row.bars) == 1 for row in rows)
    thick = THICKER if single else THICK
    heights = [thick * len(row.bars) + GAP for row in rows]
    frame = Frame(left, WIDTH - VALUE, 4, 4 + sum(heights))
    zero = scale.place(0, frame.left, frame.right)
    parts = [horizontal_axis(scale, frame), line(zero, frame.top, zero, frame.bottom, "axis")]
    top = frame.top + GAP / 2
    for row, height in zip(rows, heights, strict=True):
        middle = top + (height - GAP) / 2 + 4
        name = label(left - 6, middle, shorten(row.name, fitting(left)), f"end {row.look}".strip())
        parts.append(mark(row.name, name))
        for place, bar in enumerate(row.bars):
            drawn = _bar(bar, scale, frame, (top + thick * place, thick))
            parts.append(series(bar.key, [drawn], bar.look))
        top += height
    return chart(title, frame.bottom + 38, parts, "bars")


def _bar(bar: Bar, scale: Axis, frame: Frame, place: tuple[float, float]) -> Markup:
    """place: top and thickness."""
    top, thick = place
    middle = top + thick / 2
    zero = scale.place(0, frame.left, frame.right)
    if bar.value is None:
        return mark(bar.hover, label(zero + 5, middle + 4, "undefined", "value soft"))
    end = scale.place(bar.value, frame.left, frame.right)
    shapes = [rect(zero, top + 1, end - zero, thick - 2, "area")]
    far = end
    if bar.interval is not None:
        low, high = (scale.place(one, frame.left, frame.right) for one in bar.interval)
        shapes += [
            line(low, middle, high, middle, "whisker"),
            line(low, middle - 3, low, middle + 3, "whisker"),
            line(high, middle - 3, high, middle + 3, "whisker"),
        ]
        far = max(end, high)
    far = max(far, zero)
    shapes.append(label(far + 5, middle + 4, tick_text(round(bar.value, 1)), "value"))
    return mark(bar.hover, *shapes)


@dataclass(frozen=True, slots=True)
class Stack:
    """One row of parts side by side: (key, look, value, hover) each."""

    name: str
    parts: tuple[tuple[str, str, float, str], ...]
    look: str = ""


def stacked_chart(title: str, rows: Sequence[Stack], unit: str) -> Markup:
    """Rows of stacked bars with their sums.

    Args:
        title: for those who cannot see it.
        rows: from top to bottom.
        unit: of the values, the axis's title.
    """
    left = name_width((row.name for row in rows), WIDEST_NAME)
    frame = Frame(left, WIDTH - VALUE, 4, 4 + (THICK + 4) * len(rows))
    sums = [sum(value for _, _, value, _ in row.parts) for row in rows]
    scale = axis(sums, unit, include=(0,))
    drawn = [horizontal_axis(scale, frame)]
    for place, (row, total) in enumerate(zip(rows, sums, strict=True)):
        top, start = frame.top + (THICK + 4) * place + 2, 0.0
        name = label(left - 6, top + 10.5, shorten(row.name, fitting(left)), f"end {row.look}")
        drawn.append(mark(row.name, name))
        for key, look, value, hover in row.parts:
            if value:
                x = scale.place(start, frame.left, frame.right)
                width = scale.place(start + value, frame.left, frame.right) - x
                bar = mark(hover, rect(x, top, width, THICK, "area piece"))
                drawn.append(series(key, [bar], look))
            start += value
        end = scale.place(total, frame.left, frame.right)
        drawn.append(label(end + 5, top + 10.5, tick_text(total), "value"))
    return chart(title, frame.bottom + 38, [join(drawn)], "stacks")
