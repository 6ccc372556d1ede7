from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fedrobust.reporting.plots.confusion import plot_confusion, row_percent
from fedrobust.reporting.plots.curves import plot_influence, plot_validation
from fedrobust.reporting.plots.drops import plot_drops
from fedrobust.reporting.plots.style import KIND_COLOURS, KIND_DASHES, KIND_MARKERS, shorten_label
from fedrobust.utils.seeding import generator
from tests.helpers import reports


def is_picture(path: Path) -> bool:
    """A PNG of 150 dots an inch that is not empty: dark and light pixels, in more than a few
    shades."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert round(picture.info["dpi"][0]) == 150
        assert min(picture.size) >= 200
        low, high = picture.convert("L").getextrema()
    return path.stat().st_size > 5000 and low < 100 and high == 255


def counts(num_classes: int) -> torch.Tensor:
    return torch.randint(0, 50, (num_classes, num_classes), generator=generator(0, "counts"))


def test_the_three_kinds_differ_in_colour_marker_and_dashes() -> None:
    for look in (KIND_COLOURS, KIND_MARKERS, KIND_DASHES):
        assert list(look) == ["clean", "noisy", "poisoned"]
        assert len(set(look.values())) == 3


@pytest.mark.parametrize("total", [0, 1, 5, 60])
@pytest.mark.parametrize("with_twin", [True, False])
def test_validation_curves(tmp_path: Path, total: int, with_twin: bool) -> None:
    rounds = reports.rounds(total=total, gain=1.0)
    assert is_picture(
        plot_validation(
            rounds, reports.rounds(total=total) if with_twin else [], tmp_path / "new" / "a.png"
        )
    )


def test_undefined_metrics_leave_gaps(tmp_path: Path) -> None:
    rounds = [
        replace(record, metrics=dict.fromkeys(record.metrics, None))
        for record in reports.rounds(total=3)
    ]
    rounds[2] = replace(rounds[2], metrics={**rounds[2].metrics, "f1": 40.0})
    assert is_picture(plot_validation(rounds, [], tmp_path / "a.png"))


@pytest.mark.parametrize("shape", [(1, 0, 0), (1, 1, 0), (10, 3, 1), (100, 30, 10)])
@pytest.mark.parametrize("total", [0, 1, 4])
def test_influence(tmp_path: Path, shape: tuple[int, int, int], total: int) -> None:
    kinds = [reports.kind_of(client, *shape[1:]) for client in range(shape[0])]
    assert is_picture(
        plot_influence(reports.rounds(*shape, total=total), kinds, tmp_path / "a.png")
    )


@pytest.mark.parametrize("number", [4, 40])
def test_influence_with_clients_that_never_replied(tmp_path: Path, number: int) -> None:
    rounds = [
        replace(record, clients=record.clients[1:])
        for record in reports.rounds(number, 1, 0, total=3)
    ]
    kinds = [reports.kind_of(client, 1, 0) for client in range(number)]
    assert is_picture(plot_influence(rounds, kinds, tmp_path / "a.png"))


@pytest.mark.parametrize("num_classes", [2, 7, 20])
@pytest.mark.parametrize("with_twin", [True, False])
def test_confusion(tmp_path: Path, num_classes: int, with_twin: bool) -> None:
    names = [
        "a $formula^ ",
        "_under {brace}",
        *(f"a rather long class name {place}" for place in range(num_classes - 2)),
    ]
    twin = counts(num_classes) if with_twin else None
    assert is_picture(plot_confusion(twin, counts(num_classes), names, tmp_path / "a.png"))


def test_confusion_with_a_class_without_images(tmp_path: Path) -> None:
    matrix = torch.tensor([[3, 1], [0, 0]])
    # 3 of 4 and 1 of 4 images of class 0; class 1 has none: undefined, not zero.
    assert row_percent(matrix)[0].tolist() == [75.0, 25.0]
    assert row_percent(matrix)[1].isnan().all()
    assert is_picture(plot_confusion(None, matrix, ["a", "b"], tmp_path / "a.png"))


def test_long_names_are_cut() -> None:
    assert shorten_label("x" * 30) == "x" * 23 + "…"
    assert shorten_label("melanoma") == "melanoma"


@pytest.mark.parametrize("shape", [(10, 3, 1, True), (1, 0, 0, False), (100, 30, 10, True)])
def test_drops(tmp_path: Path, shape: tuple[int, int, int, bool]) -> None:
    assert is_picture(plot_drops(reports.typed(reports.report(*shape)).drops, tmp_path / "a.png"))


def test_undefined_drops_and_gains(tmp_path: Path) -> None:
    report = reports.report()
    drops = report["drops"]
    drops["total"] |= {"combined": None, "ci95": None}
    drops["corruption"] |= {"combined": -80.0, "ci95": [-120.0, -40.0]}
    drops["poisoning"] |= {"combined": 0.0, "ci95": None}
    assert is_picture(plot_drops(reports.typed(report).drops, tmp_path / "a.png"))


def test_no_pyplot_is_loaded() -> None:
    code = (
        "import sys; from fedrobust.reporting.plots import confusion, curves, "
        "drops; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
