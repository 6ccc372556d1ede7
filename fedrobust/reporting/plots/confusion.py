"""Confusion matrices of the clean twin and of the run, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fedrobust.reporting.plots.style import (
    FONT_SIZE,
    INK,
    class_labels,
    new_figure,
    save_figure,
    shorten_label,
    tidy,
)

MOST_NUMBERS = 12  # classes; with more the cells are too small for numbers


def plot_confusion(
    twin_KK: Tensor | None, run_KK: Tensor, class_names: Sequence[str], path: Path
) -> Path:
    """Two matrices (rows: true class, columns: predicted), every row as percent of the true class's
    images.

    twin_KK, run_KK: (K, K) counts on the clean test images; no twin, one matrix. A class without
    images has an empty row.
    """
    shown = [
        (title, counts_KK)
        for title, counts_KK in (("Clean twin", twin_KK), ("This run", run_KK))
        if counts_KK is not None
    ]
    names = [shorten_label(name) for name in class_labels(class_names)]
    side = min(3.2 + 0.3 * len(names), 9.0)
    figure = new_figure(side * len(shown) + 1.0, side)
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (title, counts_KK) in zip(panels, shown, strict=True):
        picture = _draw(axes, row_percent(counts_KK), names)
        tidy(axes, title, "Predicted")
        axes.grid(visible=False)
    panels[0].set_ylabel("True", fontsize=FONT_SIZE, color=INK)
    bar = figure.colorbar(picture, ax=list(panels), shrink=0.8)
    bar.set_label("% of the true class", fontsize=FONT_SIZE, color=INK)
    bar.ax.tick_params(labelsize=FONT_SIZE - 1, colors=INK)
    return save_figure(figure, path)


def row_percent(counts_KK: Tensor) -> Tensor:
    """(K, K) counts -> float64 percent of each row's sum; NaN in the rows of classes without
    images."""
    wide = counts_KK.double()
    return 100 * wide / wide.sum(dim=1, keepdim=True)


def _draw(axes: Any, percent_KK: Tensor, names: Sequence[str]) -> Any:
    picture = axes.imshow(percent_KK.numpy(), cmap="Blues", vmin=0, vmax=100)
    places = range(len(names))
    axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, names)
    if len(names) <= MOST_NUMBERS:
        for row, values in enumerate(percent_KK.tolist()):
            for column, value in enumerate(values):
                if not math.isnan(value):
                    colour = "white" if value > 60 else INK
                    axes.text(
                        column,
                        row,
                        f"{value:.0f}",
                        ha="center",
                        va="center",
                        color=colour,
                        fontsize=FONT_SIZE - 1,
                    )
    return picture
