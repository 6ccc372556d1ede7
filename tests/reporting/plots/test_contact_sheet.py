"""The contact sheet: every image once, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedrobust.reporting.plots import contact_sheet as module
from fedrobust.reporting.plots.contact_sheet import plot_contact_sheet


def test_shows_every_image_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    real = module.save_figure
    monkeypatch.setattr(
        module, "save_figure", lambda figure, path: drawn.append(figure) or real(figure, path)
    )
    images = torch.rand(2, 3, 8, 8)
    path = plot_contact_sheet(
        [[("hair", images), ("ruler", images)], [("jpeg", images)]],
        ("clean", "5"),
        tmp_path / "sheet.png",
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn[0].get_axes()
    assert len(axes.images) == 6
    assert [one.get_text() for one in axes.texts] == [
        "clean",
        "5",
        "hair",
        "ruler",
        "clean",
        "5",
        "jpeg",
    ]


@pytest.mark.parametrize("blocks", [[], [[]], [[("hair", torch.rand(3, 3, 8, 8))]]])
def test_refusals(blocks: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 images each"):
        plot_contact_sheet(blocks, ("clean", "5"), tmp_path / "sheet.png")
