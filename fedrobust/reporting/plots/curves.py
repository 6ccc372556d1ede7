"""Lines over the rounds: validation metrics of the run and its clean twin, and the influence of
every client."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from fedrobust.evaluation.statistics import number_or_nan
from fedrobust.reporting.plots.style import (
    FONT_SIZE,
    GRID,
    INK,
    KIND_COLOURS,
    KIND_DASHES,
    KIND_MARKERS,
    LINE_COLOURS,
    client_text,
    new_figure,
    save_figure,
    tidy,
)
from fedrobust.reporting.text import METRIC_TITLES
from fedrobust.types import TWIN, RoundRecord

SHOWN_METRICS = ("accuracy", "balanced_accuracy", "f1", "auroc")
MANY_CLIENTS = 30
MANY_ROUNDS = 30  # more have no markers
NAME_GAP = 0.035  # between names of clients; share of the height


def plot_validation(rounds: Sequence[RoundRecord], twin: Sequence[RoundRecord], path: Path) -> Path:
    """Validation metrics in percent over the rounds; one panel a metric, run and clean twin in
    each.

    rounds, twin: oldest first; `twin` may be empty. An undefined value leaves a gap.
    """
    figure = new_figure(8.0, 4.8)
    panels = figure.subplots(2, 2, sharex=True).flat
    for axes, metric in zip(panels, SHOWN_METRICS, strict=True):
        for records, name, colour, dashes, marker in (
            (twin, TWIN, LINE_COLOURS[0], "--", "s"),
            (rounds, "this run", LINE_COLOURS[1], "-", "o"),
        ):
            if records:
                values = [number_or_nan(record.metrics.get(metric)) for record in records]
                size = 4 if len(records) <= MANY_ROUNDS else 0
                axes.plot(
                    _numbers(records),
                    values,
                    dashes,
                    color=colour,
                    marker=marker,
                    markersize=size,
                    label=name,
                )
        tidy(axes, METRIC_TITLES[metric], ylabel="%")
        _whole_numbers(axes)
    for axes in panels[2:]:
        axes.set_xlabel("Round", fontsize=FONT_SIZE, color=INK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=FONT_SIZE
    )
    return save_figure(figure, path)


def plot_influence(
    rounds: Sequence[RoundRecord],
    kinds: Sequence[str],
    path: Path,
    sites: Sequence[Sequence[str]] = (),
) -> Path:
    """The weight in [0, 1] of every client over the rounds, coloured by its kind; a dotted line
    marks an equal share.

    rounds: oldest first. kinds: the kind of each client, by client number. A client that did not
    reply in a round leaves a gap. Many clients are thin lines under the bold median of their kind.
    sites: names of the sites that each client stands for, written at the end of its line; not where
    clients are many. Empty: none does.
    """
    trained = [record for record in rounds if record.clients]
    weights_CR = torch.tensor(
        [[_weight(record, client) for record in trained] for client in range(len(kinds))]
    ).view(len(kinds), len(trained))
    figure = new_figure(8.0, 3.8)
    axes = figure.subplots()
    many = len(kinds) > MANY_CLIENTS and len(trained) > 0
    for kind in _kinds_present(kinds):
        rows_CR = weights_CR[torch.tensor([one == kind for one in kinds])]
        if many:
            axes.plot(
                _numbers(trained),
                rows_CR.T,
                "-",
                color=KIND_COLOURS[kind],
                linewidth=0.6,
                alpha=0.25,
            )
            rows_CR = rows_CR.nanquantile(0.5, dim=0, keepdim=True)
        width = 2.4 if many else 1.3
        axes.plot(_numbers(trained), rows_CR.T, **_look(kind), linewidth=width)
    axes.axhline(1 / len(kinds), color=INK, linewidth=0.8, linestyle=":")
    tidy(
        axes,
        "Influence of each client" + (", bold: the median of a kind" if many else ""),
        "Round",
        "Weight",
    )
    axes.set_ylim(bottom=0)
    _whole_numbers(axes)
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 4}
    named = bool(sites) and not many
    if named:
        _name_lines(axes, weights_CR, kinds, sites)
    axes.legend(
        handles=_legend(kinds), frameon=False, fontsize=FONT_SIZE, **(below if named else beside)
    )
    return save_figure(figure, path)


def _name_lines(
    axes: Any, weights_CR: Tensor, kinds: Sequence[str], sites: Sequence[Sequence[str]]
) -> None:
    """Number and sites of each client beside the last weight that it had, one name above the
    other."""
    ends = {
        client: float(known[-1])
        for client, weights_R in enumerate(weights_CR)
        if len(known := weights_R[~weights_R.isnan()])
    }
    order = sorted(ends, key=lambda client: ends[client])
    top = axes.get_ylim()[1]
    places = spread_out([ends[client] / top for client in order], NAME_GAP)
    for client, place in zip(order, places, strict=True):
        axes.annotate(
            client_text(client, sites[client]),
            (1, ends[client]),
            (1.03, place * top),
            xycoords=axes.get_yaxis_transform(),
            textcoords=axes.get_yaxis_transform(),
            fontsize=FONT_SIZE - 3,
            color=KIND_COLOURS[kinds[client]],
            va="center",
            arrowprops={"arrowstyle": "-", "color": GRID, "linewidth": 0.6},
        )


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Rising places moved up, where needed, to be at least `gap` apart, and then down together so
    that the last one stays below 1 as far as there is room."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + gap) if found else place)
    highest = 1.0
    for row in range(len(found) - 1, -1, -1):
        found[row] = min(found[row], highest)
        highest = found[row] - gap
    return found


def _kinds_present(kinds: Sequence[str]) -> list[str]:
    return [kind for kind in KIND_COLOURS if kind in kinds]


def _look(kind: str) -> dict[str, Any]:
    return {
        "color": KIND_COLOURS[kind],
        "linestyle": KIND_DASHES[kind],
        "marker": KIND_MARKERS[kind],
        "markersize": 4,
    }


def _legend(kinds: Sequence[str]) -> list[Any]:
    """One entry a kind that occurs, with its number of clients."""
    entries = [
        Line2D([], [], **_look(kind), label=f"{kind} ({kinds.count(kind)})")
        for kind in _kinds_present(kinds)
    ]
    return [*entries, Line2D([], [], color=INK, linewidth=0.8, linestyle=":", label="equal share")]


def _whole_numbers(axes: Any) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def _numbers(records: Sequence[RoundRecord]) -> list[int]:
    return [record.number for record in records]


def _weight(record: RoundRecord, client: int) -> float:
    return next((one.weight for one in record.clients if one.client == client), math.nan)
