"""Names of classes are drawn as they are, whatever signs they hold, and matplotlib warns of
nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.text import Text

from fedrobust.reporting.plots import confusion, partition, samples
from fedrobust.reporting.plots.style import class_labels, save_figure
from fedrobust.types import Samples

NAMES = [
    "grade$1",
    "grade$2$",
    r"$\frac$",
    "_normal",
    "__init__",
    "<5mm",
    ">=5mm & <10mm",
    "[bold]10mm",
    "{x}^2_i\\",
    "N\u00e4vus",
    "\u1d81",  # not in the usual font, but in one that comes with matplotlib
]
NOWHERE = "\U000f0000 nevus"  # a private sign that no font has


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The figures that are saved; a warning is an error."""
    figures: list[Any] = []

    def save(figure: Any, path: Path) -> Path:
        figures.append(figure)
        return save_figure(figure, path)

    for module in (confusion, partition, samples):
        monkeypatch.setattr(module, "save_figure", save)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield figures


def texts(figure: Any) -> list[str]:
    found = figure.findobj(Text)
    assert not any(one.get_parse_math() for one in found if one.get_text())
    return [one.get_text() for one in found]


@pytest.mark.parametrize("names", [NAMES, ["_a", "_b"], [r"$\frac$", "$"]], ids=len)
def test_every_name_is_drawn_as_it_is(tmp_path: Path, drawn: list[Any], names: list[str]) -> None:
    count = len(names)
    confusion.plot_confusion(None, torch.eye(count), names, tmp_path / "a.png")
    partition.plot_partition(torch.ones(2, count).long(), names, ["clean"] * 2, tmp_path / "b.png")
    few = Samples(torch.zeros(count, 3, 8, 8, dtype=torch.uint8), torch.arange(count))
    samples.plot_samples([("one $x$", few, few)], names, tmp_path / "c.png")
    matrix, bars, pictures = (texts(one) for one in drawn)
    for found in (matrix, bars, pictures):
        assert set(names) <= set(found)


def test_a_name_that_no_font_can_draw_is_drawn_as_its_number(
    tmp_path: Path, drawn: list[Any]
) -> None:
    assert class_labels(["a", NOWHERE]) == ["a", "class 1"]
    confusion.plot_confusion(None, torch.eye(2), ["a", NOWHERE], tmp_path / "a.png")
    assert "class 1" in texts(drawn[0])
    assert NOWHERE not in texts(drawn[0])
