"""Content of the comparison's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedrobust.evaluation.statistics import Estimate
from fedrobust.studies.comparison import plots


def test_every_panel_of_the_influences_shows_its_lines_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    save = plots.save_figure
    monkeypatch.setattr(
        plots, "save_figure", lambda figure, path: (seen.append(figure), save(figure, path))[1]
    )
    # the panels share their axis: the first must not fix it
    high = {"small": 0.2, "large": 0.9, "none": 0.0}
    panels = {
        title: {"mean": [(1.0, Estimate(top / 2)), (2.0, Estimate(top, top, top))]}
        for title, top in high.items()
    }
    assert (
        plots.plot_rule_influence(panels, ["mean"], 0.3, tmp_path / "influence.png").stat().st_size
        > 0
    )
    for axes in seen[0].axes[:3]:
        low, top = axes.get_ylim()
        assert low < 0
        assert top >= 0.9


@pytest.mark.parametrize(("lowest", "cut"), [(-1500.0, True), (-80.0, False)])
def test_one_huge_gain_does_not_flatten_the_other_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lowest: float, cut: bool
) -> None:
    seen: list[Any] = []
    save = plots.save_figure
    monkeypatch.setattr(
        plots, "save_figure", lambda figure, path: (seen.append(figure), save(figure, path))[1]
    )
    panels = {
        "noise": {"one": [(0.0, Estimate(0.0)), (1.0, Estimate(lowest, lowest - 10, lowest + 10))]}
    }
    plots.plot_lines(panels, ["one"], ["severity"], "drop, %", tmp_path / "lines.png")
    assert (seen[0].axes[0].get_ylim()[0] == -100) == cut
    assert ("cut off below -100" in seen[0].get_supylabel().replace("\n", " ")) == cut


def test_a_long_label_of_the_y_axis_is_shown_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    save = plots.save_figure
    monkeypatch.setattr(
        plots, "save_figure", lambda figure, path: (seen.append(figure), save(figure, path))[1]
    )
    panels = {"noise": {"one": [(0.0, Estimate(0.0)), (1.0, Estimate(-150.0))]}}
    label = "combined performance drop, mean over seeds, % of the clean value"
    plots.plot_lines(panels, ["one"], ["severity"], label, tmp_path / "lines.png")
    [figure] = seen
    shown = figure._supylabel.get_window_extent()
    assert figure.bbox.y0 <= shown.y0
    assert shown.y1 <= figure.bbox.y1
    assert figure.bbox.x0 <= shown.x0
