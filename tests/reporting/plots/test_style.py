"""Figures of files: texts as they are, whatever signs they hold, and no pyplot."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from matplotlib.text import Text
from PIL import Image

from fedrobust.reporting.plots.style import new_figure, save_figure, shorten_label, tidy

NAMES = [
    "grade$1",
    r"$\frac$",
    "_normal",
    "<5mm",
    "[bold]10mm",
    "{x}^2_i\\",
    "N\u00e4vus",
    "\u1d81",  # not in the usual font, but in one that comes with matplotlib
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_drawn_as_it_is(tmp_path: Path, name: str) -> None:
    figure = new_figure(2, 2)
    tidy(figure.subplots(), xlabel=name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = save_figure(figure, tmp_path / "new" / "a.png")
    found = figure.findobj(Text)
    assert name in [one.get_text() for one in found]
    assert not any(one.get_parse_math() for one in found)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert round(picture.info["dpi"][0]) == 150


def test_long_labels_are_shortened() -> None:
    assert shorten_label("x" * 30) == "x" * 23 + "…"
    assert shorten_label("melanoma") == "melanoma"


@pytest.mark.slow
def test_no_figure_needs_pyplot() -> None:
    code = (
        "import sys; from fedrobust.reporting.plots import contact_sheet, style; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
