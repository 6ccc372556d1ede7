"""The picture of clean and contaminated samples: what it shows, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedrobust.reporting.plots import samples
from fedrobust.reporting.plots.samples import plot_samples
from fedrobust.types import Samples

NAMES = ("mel", "nv")


def block(n: int, labels: list[int] | None = None) -> Samples:
    return Samples(
        torch.full((n, 3, 8, 8), 128, dtype=torch.uint8), torch.tensor(labels or [0] * n)
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved."""
    figures: list[Any] = []
    real = samples.save_figure
    monkeypatch.setattr(
        samples, "save_figure", lambda figure, path: figures.append(figure) or real(figure, path)
    )
    return figures


def test_shows_images_and_labels_before_and_after(tmp_path: Path, drawn: list[Any]) -> None:
    floats = Samples(torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 1]))
    path = plot_samples(
        [("client 3", block(3, [0, 0, 1]), floats), ("client 5", block(2), block(2))],
        NAMES,
        tmp_path / "a" / "samples.png",
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    axes = drawn[0].get_axes()
    assert [one.get_xlabel() for one in axes if one.get_xlabel()] == [
        "mel",
        "mel → nv",
        "nv",
        "mel",
        "mel",
    ]
    assert sum(len(one.images) for one in axes) == 2 * 3 + 2 * 2
    assert [one.get_ylabel() for one in axes if one.get_ylabel()] == ["clean", "contaminated"] * 2


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (("melanoma", "nevus"), "melanoma\n→ nevus"),
        (("dermatofibroma",), "dermatofibro…"),
        (("actinic keratosis", "bcc"), "actinic kera…\n→ bcc"),
    ],
)
def test_long_names_are_broken_and_cut(
    names: tuple[str, ...], label: str, tmp_path: Path, drawn: list[Any]
) -> None:
    after = Samples(torch.rand(1, 3, 8, 8), torch.tensor([len(names) - 1]))
    plot_samples([("client 1", block(1), after)], names, tmp_path / "samples.png")
    assert [one.get_xlabel() for one in drawn[0].get_axes() if one.get_xlabel()][-1] == label


@pytest.mark.parametrize(
    "rows", [[], [("client 1", block(2), block(3))], [("client 1", block(0), block(0))]]
)
def test_refusals(rows: list[tuple[str, Samples, Samples]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no samples|do not make pairs"):
        plot_samples(rows, NAMES, tmp_path / "samples.png")
