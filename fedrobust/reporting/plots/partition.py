"""Class counts of every hospital: one stacked bar per client."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from torch import Tensor

from fedrobust.reporting.plots.style import (
    FONT_SIZE,
    INK,
    KIND_COLOURS,
    LINE_COLOURS,
    add_legend,
    class_labels,
    client_text,
    new_figure,
    save_figure,
    shorten_label,
    tidy,
)

MOST_LABELS = 60  # clients; with more only every n-th name is written


def plot_partition(
    counts_NK: Tensor,
    class_names: Sequence[str],
    roles: Sequence[str],
    path: Path,
    sites: Sequence[Sequence[str]] = (),
) -> Path:
    """Horizontal bars of (N, K) image counts, client 0 on top; name in the colour of the client's
    role.

    roles: clean, noisy or poisoned, one per client. sites: names of the sites that each client
    stands for, written beside its number; empty: none does.
    """
    clients = len(roles)
    figure = new_figure(7.2, float(np.clip(1.4 + 0.24 * clients, 2.4, 16)))
    axes = figure.subplots()
    starts_N = np.zeros(clients)
    names = [shorten_label(name) for name in class_labels(class_names)]
    bars = []
    for colour, values in zip(class_colours(len(names)), counts_NK.T.numpy(), strict=True):
        bar = axes.barh(
            range(clients),
            values,
            left=starts_N,
            height=0.8,
            color=colour,
            edgecolor="white",
            linewidth=0.4,
        )
        bars.append(bar)
        starts_N = starts_N + values
    tidy(axes, "Images per client and class", "Images")
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_ylim(clients - 0.4, -0.6)
    axes.margins(x=0.08)
    _name_clients(axes, roles, sites)
    if clients <= MOST_LABELS:
        for client, total in enumerate(starts_N):
            place: dict[str, Any] = {
                "xytext": (3, 0),
                "textcoords": "offset points",
                "va": "center",
            }
            axes.annotate(
                f"{total:.0f}", (total, client), fontsize=FONT_SIZE - 2, color=INK, **place
            )
    add_legend(
        axes,
        bars,
        names,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=FONT_SIZE - 1,
        title="Class",
        title_fontsize=FONT_SIZE,
    )
    return save_figure(figure, path)


def class_colours(num_classes: int) -> list[Any]:
    """One colour per class: the colour-blind-safe set for up to seven, then a continuous map."""
    if num_classes <= len(LINE_COLOURS):
        return list(LINE_COLOURS[:num_classes])
    return list(colormaps["turbo"](np.linspace(0.05, 0.95, num_classes)))


def _name_clients(axes: Any, roles: Sequence[str], sites: Sequence[Sequence[str]]) -> None:
    step = 1 + (len(roles) - 1) // MOST_LABELS
    places = range(0, len(roles), step)
    axes.set_yticks(
        places,
        [
            ("" if roles[client] == "clean" else f"{roles[client]} ")
            + client_text(client, sites[client] if sites else ())
            for client in places
        ],
    )
    for tick, client in zip(axes.get_yticklabels(), places, strict=True):
        tick.set_color(KIND_COLOURS[roles[client]])
        tick.set_fontweight("normal" if roles[client] == "clean" else "bold")
