"""The pictures of a comparison. Every rule keeps its colour, marker and dashes in all of them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedrobust.evaluation.statistics import DropTable, Estimate
from fedrobust.reporting.plots.style import (
    FONT_SIZE,
    INK,
    LINE_COLOURS,
    new_figure,
    save_figure,
    shorten_label,
    tidy,
)
from fedrobust.reporting.text import format_number

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
COLUMNS = 3  # of panels
LETTERS = 12  # of FONT_SIZE in an inch
SPREAD = 0.012  # of the x axis between two rules' intervals, so that they do not hide each other
MOST_BESIDE = 4  # attacks of a heat map with others beside it
DARK = 0.55  # of the colour scale: white numbers from there on

Line = Sequence[tuple[float, Estimate]]
# percent: a gain beyond it divides by next to nothing, and would flatten all other lines
DEEPEST = -100


def line_style(place: int) -> dict[str, Any]:
    """Colour, marker and dashes of the rule at this place of the grid."""
    turn = place // len(LINE_COLOURS)
    number = place % len(LINE_COLOURS)
    return {
        "color": LINE_COLOURS[number],
        "marker": MARKERS[(number + turn) % len(MARKERS)],
        "linestyle": DASHES[turn % len(DASHES)],
    }


def plot_lines(
    panels: Mapping[str, Mapping[str, Line]],
    rules: Sequence[str],
    xlabels: Sequence[str],
    ylabel: str,
    path: Path,
) -> Path:
    """One panel for each title, in it a line of (x, estimate) for each rule with 95 % intervals.
    xlabels: of each panel.

    Undefined estimates leave gaps; what lies below -100 is cut off, and the label says so. Raises
    ValueError without panels.
    """
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns) if panels else 0
    if not rows:
        raise ValueError("nothing to draw")
    figure = new_figure(1.9 + 2.9 * columns, 0.5 + 2.6 * rows)
    axes_list = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axes, (title, lines), xlabel in zip(axes_list, panels.items(), xlabels, strict=False):
        tidy(axes, shorten_label(title), xlabel)
        axes.axhline(0, color=INK, linewidth=0.6)
        width = _width(lines)
        for place, rule in enumerate(rules):
            _line(
                axes,
                lines.get(rule, ()),
                line_style(place),
                SPREAD * width * (place - (len(rules) - 1) / 2),
            )
        axes.set_xticks(sorted({x for line in lines.values() for x, _ in line}))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    if axes_list[0].get_ylim()[0] < DEEPEST:
        axes_list[0].set_ylim(bottom=DEEPEST)
        ylabel = f"{ylabel} (cut off below {DEEPEST})"
    for axes in axes_list[len(panels) :]:
        axes.set_visible(False)
    _label_y(figure, ylabel)
    _legend(figure, rules)
    return save_figure(figure, path)


def _label_y(figure: Figure, text: str) -> None:
    """One label for all panels, in as many lines as the figure's height asks for."""
    lines = textwrap.wrap(text, int(LETTERS * figure.get_size_inches()[1]))
    figure.supylabel("\n".join(lines), fontsize=FONT_SIZE, color=INK, multialignment="center")


def _width(lines: Mapping[str, Line]) -> float:
    places = [x for line in lines.values() for x, _ in line]
    return (max(places) - min(places) or 1.0) if places else 1.0


def _line(axes: Any, line: Line, style: Mapping[str, Any], shift: float) -> None:
    x = [place + shift for place, _ in line]
    y = [math.nan if one.value is None else one.value for _, one in line]
    axes.plot(x, y, **style, markersize=4, linewidth=1.2)
    for place, (_, one) in zip(x, line, strict=True):
        if one.low is not None and one.high is not None:
            axes.plot(
                [place, place],
                [one.low, one.high],
                color=style["color"],
                linewidth=0.9,
                marker="_",
                markersize=4,
            )


def _legend(figure: Any, rules: Sequence[str]) -> None:
    handles = [
        Line2D([], [], **line_style(place), markersize=4, label=shorten_label(rule))
        for place, rule in enumerate(rules)
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=FONT_SIZE - 1)


def plot_heatmap(
    boards: Mapping[str, DropTable], rules: Sequence[str], attacks: Sequence[str], path: Path
) -> Path:
    """Rules by attacks: mean combined drop over seeds, for each title of `boards`; below it half
    the width of its interval.

    The colours are cut at 0 and 100; a gain is white. An undefined value is an empty field. Wide
    panels stand one above the other.
    """
    wide = len(attacks) > MOST_BESIDE
    rows, columns = (len(boards), 1) if wide else (1, len(boards))
    figure = new_figure(
        1.6 + columns * (1.6 + 0.85 * len(attacks)), 1.0 + rows * (0.3 + 0.42 * len(rules))
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True).reshape(-1)
    for axes, (title, judged) in zip(panels, boards.items(), strict=True):
        estimates = [
            [judged.one(rule, attack) for attack in range(len(attacks))]
            for rule in range(len(rules))
        ]
        values = [
            [math.nan if one.value is None else one.value for one in row] for row in estimates
        ]
        picture = axes.imshow(values, cmap="Reds", norm=Normalize(0, 100), aspect="auto")
        tidy(axes, title)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_xticks(
            range(len(attacks)),
            [shorten_label(attack) for attack in attacks],
            rotation=35,
            ha="right",
            rotation_mode="anchor",
        )
        axes.set_yticks(range(len(rules)), [shorten_label(rule) for rule in rules])
        for row, line in enumerate(estimates):
            for column, one in enumerate(line):
                _number(axes, column, row, one)
    bar = figure.colorbar(picture, ax=list(panels))
    bar.set_label("combined drop, %", fontsize=FONT_SIZE, color=INK)
    bar.ax.tick_params(labelsize=FONT_SIZE - 1, colors=INK)
    return save_figure(figure, path)


def _number(axes: Any, column: int, row: int, one: Estimate) -> None:
    if one.value is None:
        return
    half = (
        ""
        if one.low is None or one.high is None
        else f"\n±{format_number((one.high - one.low) / 2)}"
    )
    colour = "white" if one.value > 100 * DARK else INK
    axes.text(
        column,
        row,
        format_number(one.value) + half,
        ha="center",
        va="center",
        fontsize=FONT_SIZE - 2,
        color=colour,
    )


def plot_rule_influence(
    panels: Mapping[str, Mapping[str, Line]], rules: Sequence[str], share: float, path: Path
) -> Path:
    """The summed weight of the poisoned clients over the rounds, one panel an attack, a line a rule
    with its interval over seeds as a band; dotted: an equal `share` for each client. Raises
    ValueError without panels."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns) if panels else 0
    if not rows:
        raise ValueError("nothing to draw")
    figure = new_figure(1.9 + 2.9 * columns, 0.5 + 2.6 * rows)
    axes_list = list(figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True).flat)
    for axes, (title, lines) in zip(axes_list, panels.items(), strict=False):
        tidy(axes, shorten_label(title), "Round")
        axes.axhline(share, color=INK, linewidth=0.8, linestyle=":")
        for place, rule in enumerate(rules):
            _band(axes, lines.get(rule, ()), line_style(place))
        axes.xaxis.get_major_locator().set_params(integer=True)
    # last, for all panels share it and a limit set ends autoscaling; space for the markers of a
    # weight of 0
    axes_list[0].set_ylim(bottom=-0.02 * axes_list[0].get_ylim()[1])
    for axes in axes_list[len(panels) :]:
        axes.set_visible(False)
    _label_y(figure, "weight of all poisoned clients together")
    _legend(figure, rules)
    return save_figure(figure, path)


def _band(axes: Any, line: Line, style: Mapping[str, Any]) -> None:
    x = [place for place, _ in line]
    axes.plot(
        x,
        [math.nan if one.value is None else one.value for _, one in line],
        **style,
        markersize=3,
        linewidth=1.2,
    )
    edges = [
        [math.nan if edge is None else edge for edge in (one.low, one.high)] for _, one in line
    ]
    axes.fill_between(
        x,
        [low for low, _ in edges],
        [high for _, high in edges],
        color=style["color"],
        alpha=0.15,
        linewidth=0,
    )
