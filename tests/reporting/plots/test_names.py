"""Names of classes are drawn as they are, whatever signs they hold, and matplotlib warns of
nothing."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.text import Text

from fedrobust.reporting.plots import confusion, curves, partition, samples
from fedrobust.reporting.plots.style import class_labels, save_figure, undrawn_note
from fedrobust.types import Samples
from tests.helpers import reports

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

    for module in (confusion, curves, partition, samples):
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


def test_one_line_says_so() -> None:
    assert undrawn_note(NAMES) == ""
    line = undrawn_note(["a", NOWHERE, "b", "\U000f0001", NOWHERE])
    assert line.startswith(
        f"pictures: no font of this machine has all signs of 2 names ({NOWHERE})"
    )
    assert "\n" not in line


@pytest.mark.parametrize("clients", [3, 30])
def test_lines_of_influence_end_at_the_names_of_sites(
    tmp_path: Path, drawn: list[Any], clients: int
) -> None:
    kinds = ["poisoned", *["clean"] * (clients - 1)]
    sites = [
        ["$o$slo"],
        ["lyon", "graz"],
        [NOWHERE],
        *[[f"site {one}"] for one in range(3, clients)],
    ]
    curves.plot_influence(reports.rounds(clients, 1, 0, total=2), kinds, tmp_path / "a.png", sites)
    found = texts(drawn[0])
    assert {"0 $o$slo", "1 lyon + graz", "2"} < set(found)
    named = [one for one in drawn[0].axes[0].texts if one.get_text()]
    heights = sorted(float(one.xyann[1]) for one in named)
    assert len(named) == clients
    assert min(right - left for left, right in itertools.pairwise(heights)) > 0


@pytest.mark.parametrize(("clients", "sites"), [(3, ()), (40, [["a"]] * 40)])
def test_lines_of_many_clients_and_of_clients_without_sites_have_no_names(
    tmp_path: Path, drawn: list[Any], clients: int, sites: list[list[str]]
) -> None:
    rounds = reports.rounds(clients, 1, 0, total=2)
    curves.plot_influence(rounds, ["clean"] * clients, tmp_path / "a.png", sites)
    assert list(drawn[0].axes[0].texts) == []


def test_a_client_that_never_replied_has_no_line_and_no_name(
    tmp_path: Path, drawn: list[Any]
) -> None:
    rounds = [
        replace(record, clients=record.clients[1:]) for record in reports.rounds(3, 1, 0, total=2)
    ]
    curves.plot_influence(rounds, ["clean"] * 3, tmp_path / "a.png", [["a"], ["b"], ["c"]])
    assert [one.get_text() for one in drawn[0].axes[0].texts if "a" in one.get_text()] == []


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0.1, 0.5], [0.1, 0.5]),
        ([0.1, 0.1, 0.1], [0.1, 0.2, 0.3]),
        ([0.95, 0.97, 1.0], [0.8, 0.9, 1.0]),
    ],
)
def test_names_keep_their_distance(places: list[float], expected: list[float]) -> None:
    assert curves.spread_out(places, 0.1) == pytest.approx(expected)
