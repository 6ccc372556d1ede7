"""Critical-difference diagrams: average ranks on a line, with bars over what does not differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedrobust.reporting.web.markup import element, join, shorten
from fedrobust.reporting.web.parts import WIDTH, chart, fitting, label, line, mark, name_width
from fedrobust.reporting.web.scales import Axis, axis

WIDEST_NAME = 122.0  # with its rank
AXIS = 38.0  # height of the line
BAR_GAP, ROW_GAP = 9.0, 17.0
RANK_SIGNS = 5  # of a rank behind a name


@dataclass(frozen=True, slots=True)
class Ranked:
    """One name with its average rank. hover: what it says."""

    name: str
    rank: float
    hover: str = ""


def rank_chart(
    title: str, ranked: Sequence[Ranked], groups: Sequence[Sequence[int]], note: str
) -> Markup:
    """Names at their average ranks, the lowest on the left.

    Args:
        title: for those who cannot see it.
        ranked: in any order, at least two.
        groups: places in `ranked` of those that do not differ, each group a bar with a dot at each
            of its members; a bar may pass over names that are not of its group.
        note: of the axis.

    Returns:
        The chart.

    Reference:
        Demsar, J Mach Learn Res 7:1, 2006.
    """
    width = name_width((one.name + " " * RANK_SIGNS for one in ranked), WIDEST_NAME)
    left, right = width + 6, WIDTH - width - 6
    scale = axis((1.0, float(len(ranked))), whole=True)
    places = [scale.place(one.rank, left, right) for one in ranked]
    bars = [
        _bar([places[member] for member in group], AXIS + 11 + BAR_GAP * number)
        for number, group in enumerate(groups)
    ]
    top = AXIS + 20 + BAR_GAP * len(groups)
    order = sorted(range(len(ranked)), key=lambda place: (ranked[place].rank, place))
    half = (len(order) + 1) // 2
    sides = [(order[:half], left), (order[half:][::-1], right)]
    names = [
        _name(ranked[place], places[place], (end, top + ROW_GAP * row), width)
        for members, end in sides
        for row, place in enumerate(members)
    ]
    parts = [label(WIDTH / 2, 11, note, "middle soft"), _axis(scale, left, right), *names, *bars]
    return chart(title, top + ROW_GAP * half, parts, "ranks")


def _axis(scale: Axis, left: float, right: float) -> Markup:
    parts = [line(left, AXIS, right, AXIS, "axis")]
    for value, words in scale.ticks:
        x = scale.place(value, left, right)
        parts += [line(x, AXIS - 4, x, AXIS, "axis"), label(x, AXIS - 8, words, "middle")]
    return join(parts)


def _name(one: Ranked, x: float, end: tuple[float, float], width: float) -> Markup:
    """A line from the axis down and out to the name at the end."""
    across, down = end
    outward = -1 if across < WIDTH / 2 else 1
    words = f"{shorten(one.name, fitting(width) - RANK_SIGNS)} {one.rank:.1f}"
    path = {"d": f"M{x:.1f} {AXIS:.1f}V{down:.1f}H{across:.1f}", "class": "lead"}
    look = "end" if outward < 0 else ""
    return mark(
        one.hover or one.name,
        element("path", path),
        label(across + 4 * outward, down + 4, words, look),
    )


def _bar(places: Sequence[float], y: float) -> Markup:
    dots = [element("circle", {"cx": x, "cy": y, "r": 3.2, "class": "area"}) for x in places]
    bar = line(min(places), y, max(places), y, "clique")
    return element("g", {"class": "series s0"}, bar, *dots)
