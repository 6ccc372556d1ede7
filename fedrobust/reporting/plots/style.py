"""One look for every picture of a file: sizes, colours, fonts. Pages draw their own
(`fedrobust.reporting.web`)."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any, Final

from matplotlib import font_manager, rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from fedrobust.utils import files

# Paul Tol's "bright" set: lines stay apart for colour-blind readers.
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
LONGEST_NAME: Final = 24  # letters beside an axis
# fonts that have a box for every sign, and pictures that cannot be drawn
NO_FONTS: Final = ("Last Resort", "Emoji")


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


def shorten_label(name: str) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def save_figure(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG at 150 dots per inch, making the folder where it is missing; returns
    the path. All texts are shown as they are: dollar signs begin no formula, and signs that the
    usual font lacks come from another one."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        others = dict.fromkeys(found for sign in text.get_text() if (found := _font_of(sign)))
        if others:
            text.set_fontfamily([*rcParams["font.family"], *others])
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI)
    return files.write(path, [picture.getbuffer()])


@functools.cache
def _usual_signs() -> frozenset[int]:
    usual = font_manager.findfont(font_manager.FontProperties())
    return frozenset((*FT2Font(usual).get_charmap(), ord("\n")))


@functools.lru_cache(maxsize=4096)
def _font_of(sign: str) -> str | None:
    """The family of a font that has the sign: "" for the usual one, None where there is none."""
    if ord(sign) in _usual_signs():
        return ""
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda one: (one.name, one.fname)):
        known = not any(word in entry.name for word in NO_FONTS)
        if known and ord(sign) in _signs(entry.fname):
            return str(entry.name)
    return None


@functools.cache
def _signs(file: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
