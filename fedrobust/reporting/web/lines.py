"""Lines over a number: rounds, severity, rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedrobust.reporting.web.markup import element, shorten
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
    series,
    vertical_axis,
)
from fedrobust.reporting.web.scales import Axis

HEIGHT = 230.0
SQUARE = 290.0  # side of a square area
NAME_GAP = 12.5  # between names at the lines' ends
MOST_NAMES = 16
WIDEST_NAME = 100.0
MOST_POINTS, MOST_MARKS = 400, 100  # of a line; with more, every n-th point or mark is drawn
REACH = 7.0  # of an invisible mark that catches the pointer


@dataclass(frozen=True, slots=True)
class Point:
    """One value at x; None leaves a gap. interval: (low, high); hover: what it says, empty: no
    mark."""

    x: float
    y: float | None
    hover: str = ""
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points. key: of its series; look: the class that colours it; dashes: of the
    stroke, e.g. "5 3"; shape: of its marks, circle, square or none; name: written at its end where
    the chart names its lines."""

    key: str
    look: str
    points: tuple[Point, ...]
    dashes: str = ""
    shape: str = "circle"
    name: str = ""


def line_chart(
    title: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    guides: Sequence[Markup] = (),
    square: bool = False,
) -> Markup:
    """Lines over x.

    Args:
        title: for those who cannot see it.
        lines: later ones are drawn over earlier ones; they are named at their ends where any has a
            name and there is room.
        x: the horizontal axis.
        y: the vertical axis.
        guides: e.g. of `level` or `diagonal`, below the lines.
        square: as high as wide, for rates against rates.
    """
    named = any(one.name for one in lines) and len(lines) <= MOST_NAMES
    room = name_width((one.name for one in lines), WIDEST_NAME) if named else 12.0
    frame = plot_frame(room, square=square)
    parts = [vertical_axis(y, frame), horizontal_axis(x, frame, grid=False)]
    parts += [*guides, line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")]
    parts += [_line(one, x, y, frame) for one in lines]
    if named:
        parts += _names(lines, y, frame, fitting(room))
    return chart(title, frame.bottom + 38, parts, "lines")


def plot_frame(room: float = 12.0, *, square: bool = False) -> Frame:
    """The area of a line chart. room: for names at its right side."""
    frame = Frame(42, WIDTH - room, 24, HEIGHT - 38)
    if not square:
        return frame
    return Frame(70, 70 + SQUARE, 24, 24 + SQUARE)


def level(value: float, y: Axis, room: float = 12.0) -> Markup:
    """A dotted horizontal line at a value."""
    frame = plot_frame(room)
    height = y.place(value, frame.bottom, frame.top)
    return line(frame.left, height, frame.right, height, "guide")


def diagonal() -> Markup:
    """The dotted diagonal of a square chart."""
    frame = plot_frame(square=True)
    return line(frame.left, frame.bottom, frame.right, frame.top, "guide")


def _line(one: Line, x: Axis, y: Axis, frame: Frame) -> Markup:
    shown = _thinned(one.points, MOST_POINTS)
    known = [
        (point, *_place(point, x, y, frame))
        for point in _thinned(shown, MOST_MARKS)
        if point.y is not None and point.hover
    ]
    drawn = {"d": _path(shown, x, y, frame), "class": "line"}
    parts = [element("path", {**drawn, "stroke-dasharray": one.dashes or None})]
    for point, across, down in known:
        shapes = []
        if point.interval is not None:
            low, high = (y.place(end, frame.bottom, frame.top) for end in point.interval)
            shapes += [
                line(across, low, across, high, "whisker"),
                line(across - 3, low, across + 3, low, "whisker"),
                line(across - 3, high, across + 3, high, "whisker"),
            ]
        shapes.append(_shape(one.shape, across, down))
        shapes.append(element("circle", {"cx": across, "cy": down, "r": REACH, "class": "reach"}))
        parts.append(mark(point.hover, *shapes))
    return series(one.key, parts, one.look)


def _thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """At most about so many points, evenly spaced, the last one among them."""
    step = math.ceil(len(points) / most)
    return points if step <= 1 else points[::-step][::-1]


def _shape(shape: str, x: float, y: float) -> Markup:
    if shape == "circle":
        return element("circle", {"cx": x, "cy": y, "r": 3, "class": "area"})
    if shape == "square":
        size = {"x": x - 3, "y": y - 3, "width": 6, "height": 6}
        return element("rect", {**size, "class": "area"})
    return Markup("")


def _place(point: Point, x: Axis, y: Axis, frame: Frame) -> tuple[float, float]:
    assert point.y is not None
    return x.place(point.x, frame.left, frame.right), y.place(point.y, frame.bottom, frame.top)


def _path(points: Sequence[Point], x: Axis, y: Axis, frame: Frame) -> str:
    """Straight pieces, broken where a value is missing."""
    steps, pen = [], "M"
    for point in points:
        if point.y is None:
            pen = "M"
            continue
        across, down = _place(point, x, y, frame)
        steps.append(f"{pen}{across:.1f} {down:.1f}")
        pen = "L"
    return "".join(steps)


def _names(lines: Sequence[Line], y: Axis, frame: Frame, signs: int) -> list[Markup]:
    """The names right of the lines' last values, one above the other."""
    ends = [
        (y.place(known[-1], frame.bottom, frame.top), one)
        for one in lines
        if one.name and (known := [point.y for point in one.points if point.y is not None])
    ]
    ends.sort(key=lambda end: end[0])
    places = spread_out([end for end, _ in ends], NAME_GAP, frame.bottom + 6)
    parts = []
    for (end, one), place in zip(ends, places, strict=True):
        leader = line(frame.right, end, frame.right + 6, place, "leader")
        words = label(frame.right + 8, place + 4, shorten(one.name, signs), "name")
        parts.append(series(one.key, [leader, mark(one.name, words)], one.look))
    return parts


def spread_out(places: Sequence[float], gap: float, highest: float) -> list[float]:
    """Rising places moved up, where needed, to be at least `gap` apart, and then down together so
    that the last one stays below `highest` as far as there is room."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + gap) if found else place)
    limit = highest
    for row in range(len(found) - 1, -1, -1):
        found[row] = min(found[row], limit)
        limit = found[row] - gap
    return found
