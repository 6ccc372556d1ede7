"""What all charts share: size, axes, marks with hover texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedrobust.reporting.web.markup import element, join
from fedrobust.reporting.web.scales import Axis

WIDTH = 400.0  # of every chart, in units of its own; a page shows one at about this many pixels
SIGN = 8.1  # width of a bold sign in a wide typeface, on a small screen


@dataclass(frozen=True, slots=True)
class Frame:
    """Edges of the area in which data are drawn."""

    left: float
    right: float
    top: float
    bottom: float


def chart(title: str, height: float, parts: Sequence[Markup], kind: str = "") -> Markup:
    """An SVG that fills its place's width. title: for those who cannot see it."""
    attributes = {
        "class": f"chart {kind}".strip(),
        "viewBox": f"0 0 {WIDTH:g} {height:g}",
        "role": "img",
        "aria-label": title,
    }
    return element("svg", attributes, *parts)


def label(x: float, y: float, words: object, look: str = "") -> Markup:
    """A text. look: classes, such as `end` (it ends at x) or `middle`."""
    return element("text", {"x": x, "y": y, "class": look or None}, words)


def mark(hover: str, *shapes: Markup, look: str = "") -> Markup:
    """Shapes that say something when a pointer rests on them."""
    return element("g", {"class": f"mark {look}".strip()}, element("title", {}, hover), *shapes)


def series(key: str, parts: Iterable[Markup], look: str = "") -> Markup:
    """What a legend's entry of this key hides and shows."""
    return element("g", {"class": f"series {look}".strip(), "data-series": key}, *parts)


def line(x1: float, y1: float, x2: float, y2: float, look: str) -> Markup:
    """A straight line."""
    return element("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": look})


def rect(x: float, y: float, width: float, height: float, look: str) -> Markup:
    """A rectangle; one of negative width reaches to the left."""
    left = min(x, x + width)
    size = {"x": left, "y": y, "width": abs(width), "height": height}
    return element("rect", {**size, "class": look})


def horizontal_axis(found: Axis, frame: Frame, *, grid: bool = True) -> Markup:
    """Ticks, grid lines and title below the area."""
    parts = []
    for value, words in found.ticks:
        x = found.place(value, frame.left, frame.right)
        if grid:
            parts.append(line(x, frame.top, x, frame.bottom, "grid"))
        parts.append(label(x, frame.bottom + 15, words, "middle"))
    middle = (frame.left + frame.right) / 2
    parts.append(label(middle, frame.bottom + 32, found.title, "middle soft"))
    return join(parts)


def vertical_axis(found: Axis, frame: Frame) -> Markup:
    """Ticks and grid lines left of the area, the title above its left edge."""
    parts = [label(frame.left - 40, frame.top - 10, found.title, "soft unit")]
    for value, words in found.ticks:
        y = found.place(value, frame.bottom, frame.top)
        parts += [
            line(frame.left, y, frame.right, y, "grid"),
            label(frame.left - 6, y + 4, words, "end"),
        ]
    return join(parts)


def name_width(names: Iterable[str], most: float) -> float:
    """Room for names beside an axis."""
    return min(max((len(name) for name in names), default=0) * SIGN + 10, most)


def fitting(width: float) -> int:
    """Signs that have room."""
    return max(int((width - 8) / SIGN), 3)
