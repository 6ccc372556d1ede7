"""Matrices of numbers as shades."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from fedrobust.reporting.web.markup import element, shorten
from fedrobust.reporting.web.parts import WIDTH, chart, fitting, label, mark, name_width
from fedrobust.reporting.web.scales import tick_text

MOST_NUMBERS = 12  # columns; with more the cells are too small for numbers
WIDEST_NAME = 100.0
MEDIUM, STRONG = 0.58, 0.83  # shades above which a number changes its colour, dark and light
SLANT = 0.72  # of names above the columns, against their length


def heat_map(
    title: str,
    values: Sequence[Sequence[float | None]],
    names: tuple[Sequence[str], Sequence[str]],
    hovers: Sequence[Sequence[str]],
    most: float,
) -> Markup:
    """A cell a value; those below zero have the other colour.

    Args:
        title: for those who cannot see it.
        values: rows of equal length; None: an empty cell.
        names: of rows and of columns.
        hovers: what each cell says.
        most: the absolute value with the full shade, above 0.
    """
    rows, columns = names
    left, high = name_width(rows, WIDEST_NAME), name_width(columns, WIDEST_NAME) * SLANT
    right = WIDTH - 24  # for the last slanted name
    side = min((right - left) / max(len(columns), 1), 46.0)
    top, parts = high + 8, []
    for place, name in enumerate(columns):
        x, y = left + side * (place + 0.5), top - 6
        turned = {"x": x, "y": y, "transform": f"rotate(-40 {x:.1f} {y:.1f})"}
        words = shorten(name, fitting(WIDEST_NAME))
        parts.append(mark(name, element("text", {**turned, "class": "names"}, words)))
    for row, name in enumerate(rows):
        y = top + side * (row + 0.5) + 4
        parts.append(mark(name, label(left - 6, y, shorten(name, fitting(left)), "end names")))
        for column, value in enumerate(values[row]):
            where = (left + side * column, top + side * row)
            numbers = len(columns) <= MOST_NUMBERS
            cell = _cell(value, where, side, most, numbers=numbers)
            parts.append(mark(hovers[row][column], *cell))
    return chart(title, top + side * len(rows) + 6, parts, "matrix")


def _cell(
    value: float | None, where: tuple[float, float], side: float, most: float, *, numbers: bool
) -> list[Markup]:
    x, y = where
    box = {"x": x, "y": y, "width": side - 1, "height": side - 1}
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
        parts.append(label(x + (side - 1) / 2, y + side / 2 + 3.5, words, f"middle number{tone}"))
    return parts
