"""The picture of contributions: every hospital of every seed, by kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fedrobust.experiment.experiment import KINDS
from fedrobust.reporting.plots.style import INK, LINE_COLOURS, new_figure, save_figure, tidy
from fedrobust.studies.contribution.results import GAMES

COLOURS = dict(zip(KINDS, (LINE_COLOURS[0], LINE_COLOURS[3], LINE_COLOURS[1]), strict=True))
TITLES = {"performance": "Performance (above 0: helps)", "drop": "Drop (above 0: harms)"}


def draw_contributions(frame: pd.DataFrame, path: Path) -> Path:
    """Write the picture: Shapley values with their 95 % intervals, and leave-one-out as crosses.

    Args:
        frame: of `contribution_frame`.
        path: of the file.
    """
    figure = new_figure(8.4, 3.8)
    for axes, game in zip(figure.subplots(1, len(GAMES)), GAMES, strict=True):
        tidy(axes, TITLES[game], "hospitals of all seeds, by kind and value", "percentage points")
        axes.axhline(0, color=INK, linewidth=0.6)
        _draw(axes, frame[frame.game == game])
    return save_figure(figure, path)


def _draw(axes: Any, part: pd.DataFrame) -> None:
    place = 0
    for kind in KINDS:
        mine = part[part.kind == kind].sort_values("shapley")
        if mine.empty:
            continue
        x = range(place, place + len(mine))
        axes.vlines(x, mine.low, mine.high, color=COLOURS[kind], linewidth=1)
        axes.plot(x, mine.shapley, "o", color=COLOURS[kind], markersize=4, label=f"{kind}: Shapley")
        axes.plot(
            x, mine.leave_one_out, "x", color=COLOURS[kind], markersize=4, label=f"{kind}: left out"
        )
        place += len(mine) + 2
    axes.set_xticks([])
    axes.legend(fontsize=7, frameon=False)
