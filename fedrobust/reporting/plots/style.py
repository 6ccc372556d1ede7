"""One look for every picture: sizes, line colours and the colours of the three kinds of clients.

The kinds wear Paul Tol's "high contrast" colours: they stay apart for colour-blind readers and in
grey print. Markers and dashes repeat the distinction, so colour never carries it alone.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedrobust.utils import files

KIND_COLOURS: Final[dict[str, str]] = {
    "clean": "#004488",
    "noisy": "#DDAA33",
    "poisoned": "#BB5566",
}
KIND_MARKERS: Final[dict[str, str]] = {"clean": "o", "noisy": "s", "poisoned": "X"}
KIND_DASHES: Final[dict[str, str]] = {"clean": "-", "noisy": "-.", "poisoned": "--"}
# Paul Tol's "bright" set, for lines that are no kinds of clients.
LINE_COLOURS: Final[tuple[str, ...]] = (
    "#4477AA",
    "#EE6677",
    "#228833",
    "#CCBB44",
    "#66CCEE",
    "#AA3377",
    "#BBBBBB",
)
INK: Final = "#222222"
GRID: Final = "#DDDDDD"
FONT_SIZE: Final = 9
DPI: Final = 150


def new_figure(width: float = 6.4, height: float = 4.0) -> Figure:
    """An empty white figure of width x height inches that lays itself out; no pyplot, nothing to
    close."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Any, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Titles to the left, two spines, faint horizontal grid lines behind the data. `axes`:
    matplotlib Axes."""
    axes.set_title(title, loc="left", fontsize=FONT_SIZE + 1, fontweight="bold", color=INK)
    axes.set_xlabel(xlabel, fontsize=FONT_SIZE, color=INK)
    axes.set_ylabel(ylabel, fontsize=FONT_SIZE, color=INK)
    axes.tick_params(labelsize=FONT_SIZE - 1, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG at 150 dots per inch, making the folder where it is missing; returns
    the path."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI)
    return files.write(path, [picture.getbuffer()])
