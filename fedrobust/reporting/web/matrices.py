"""Matrices of numbers as shades."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from fedrobust.reporting.web.markup import element, shorten
from fedrobust.reporting.web.parts import WIDTH, chart, fitting, label, mark, name_width
from fedrobust.reporting.web.scales import tick_text

MOST_NUMBERS = 12  # columns; with more the cells are too small for numbers
WIDEST_NAME = 100.0
MEDIUM, STRONG = 0.58, 0.83  # shades above which a number changes its colour, dark and light
SLANT = 0.72  # of names above the columns, against their length
LOWEST = 13.0  # height of a row
NARROW = 18.0  # room for a number above a column


def heat_map(
    title: str,
    values: Sequence[Sequence[float | None]],
    names: tuple[Sequence[str], Sequence[str]],
    hovers: Sequence[Sequence[str]],
    most: float,
) -> Markup:
    """A cell a value; those below zero have the other colour. Above `MOST_NUMBERS` columns the
    heads are numbers, which stand before the rows' names, too.

    Args:
        title: for those who cannot see it.
        values: rows of equal length; None: an empty cell.
        names: of rows and of columns.
        hovers: what each cell says.
        most: the absolute value with the full shade, above 0.
    """
    rows, columns = names
    numbers = len(columns) <= MOST_NUMBERS
    if not numbers:
        rows = [f"{place} {name}" for place, name in enumerate(rows)]
    left = name_width(rows, WIDEST_NAME)
    right = WIDTH - 24  # for the last slanted name
    wide = min((right - left) / max(len(columns), 1), 46.0)
    box = (wide, max(wide, LOWEST))
    top = name_width(columns, WIDEST_NAME) * SLANT + 8 if numbers else 18.0
    parts = _slanted(columns, (left, top), wide) if numbers else _counted(columns, left, wide)
    for row, name in enumerate(rows):
        y = top + box[1] * row
        words = shorten(name, fitting(left))
        parts.append(mark(name, label(left - 6, y + box[1] / 2 + 4, words, "end names")))
        for column, value in enumerate(values[row]):
            cell = _cell(value, (left + wide * column, y), box, most, numbers=numbers)
            parts.append(mark(hovers[row][column], *cell))
    return chart(title, top + box[1] * len(rows) + 6, parts, "matrix")


def _slanted(columns: Sequence[str], corner: tuple[float, float], wide: float) -> list[Markup]:
    """Names above their columns."""
    parts = []
    for place, name in enumerate(columns):
        x, y = corner[0] + wide * (place + 0.5), corner[1] - 6
        turned = {"x": x, "y": y, "transform": f"rotate(-40 {x:.1f} {y:.1f})"}
        words = shorten(name, fitting(WIDEST_NAME))
        parts.append(mark(name, element("text", {**turned, "class": "names"}, words)))
    return parts


def _counted(columns: Sequence[str], left: float, wide: float) -> list[Markup]:
    """Numbers above as many columns as have room for one."""
    step = math.ceil(NARROW / wide)
    return [
        mark(columns[place], label(left + wide * (place + 0.5), 12, place, "middle"))
        for place in range(0, len(columns), step)
    ]


def _cell(
    value: float | None,
    where: tuple[float, float],
    size: tuple[float, float],
    most: float,
    *,
    numbers: bool,
) -> list[Markup]:
    x, y = where
    box = {"x": x, "y": y, "width": size[0] - 1, "height": size[1] - 1}
    if value is None:
        return [element("rect", {**box, "class": "cell empty"})]
    shade = min(abs(value) / most, 1.0)
    look = "cell below" if value < 0 else "cell"
    parts = [
        element("rect", {**box, "class": "cell empty"}),
        element("rect", {**box, "class": look, "fill-opacity": f"{shade:.2f}"}),
    ]
    if numbers:
        tone = " strong" if shade > STRONG else " medium" if shade > MEDIUM else ""
        words = tick_text(round(value) + 0.0)
        middle = (x + (size[0] - 1) / 2, y + size[1] / 2 + 3.5)
        parts.append(label(*middle, words, f"middle number{tone}"))
    return parts
