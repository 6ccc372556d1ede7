"""What the comparison's pictures show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedrobust.comparison import plots
from fedrobust.comparison.statistics import Estimate


def test_every_panel_of_the_influences_shows_its_lines_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    save = plots.save
    monkeypatch.setattr(plots, "save", lambda figure, path: (seen.append(figure), save(figure, path))[1])
    high = {"small": 0.2, "large": 0.9, "none": 0.0}  # the panels share their axis: the first must not fix it
    panels = {title: {"mean": [(1.0, Estimate(top / 2)), (2.0, Estimate(top, top, top))]} for title, top in high.items()}
    assert plots.plot_influence(panels, ["mean"], 0.3, tmp_path / "influence.png").stat().st_size > 0
    for axes in seen[0].axes[:3]:
        low, top = axes.get_ylim()
        assert low < 0
        assert top >= 0.9
