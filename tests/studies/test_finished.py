"""The result of a finished folder, on the screen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedrobust.commands import show
from fedrobust.experiment.compose import compose
from fedrobust.reporting.report import write_report
from fedrobust.studies.comparison import leaderboard
from fedrobust.studies.comparison.run import RANKING, read_ranking
from fedrobust.studies.comparison.summary import format_estimate
from tests.helpers import reports
from tests.helpers.comparisons import findings


def shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert show.main([str(folder)]) == 0
    return capsys.readouterr().out


def finished_run(folder: Path) -> None:
    made = reports.typed(reports.report(10, 3, 0))
    write_report(folder, made)
    manifest = {"config": compose("strategy=fltrust"), "data": {"root": 28, "proxy": 300}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_run_is_shown_as_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished_run(tmp_path)
    text = shown(tmp_path, capsys)
    assert "Performance drop" in text
    assert "Combined" in text
    # fltrust uses root images; recalibration proxy images
    assert "root (28 images)" in text
    assert "proxy (300 images)" in text
    assert text.replace("\n", "").endswith(f"report: {tmp_path / 'report.html'}")


def test_a_comparison_shows_its_ranking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(tmp_path / "cells", seeds=(0, 1), draws=100)
    rankings = leaderboard.rankings_of(found)
    frame = leaderboard.ranking_frame(found, rankings)
    frame.to_csv(tmp_path / RANKING, index=False)
    (tmp_path / "leaderboard.md").write_text("# Leaderboard\n")
    text = shown(tmp_path, capsys)
    assert text.index("Ranking under 3 poisoned clients") < text.index("under 1 poisoned client")
    for ranking in rankings.values():
        for mean in ranking.means:
            assert format_estimate(mean) in " ".join(text.split())
    assert "lower is better" in text
    assert "leaderboard.md" in text


def test_a_comparison_without_attacks_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / RANKING).write_text("\n")  # as pandas writes a table without rows and columns
    (tmp_path / "leaderboard.md").write_text("# Leaderboard\n")
    assert read_ranking(tmp_path).empty
    assert "no ranking, since no client was poisoned" in shown(tmp_path, capsys)


def test_an_ablation_shows_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ablation.md").write_text("# Ablation\n\nwhat came of it\n")
    assert "what came of it" in shown(tmp_path, capsys)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "holds no report.json and no leaderboard.md; give the output folder of a finished"),
        (["manifest.json"], "its run is not finished; resume it with python -m fedrobust.simulate"),
        (None, "no such folder; give the output folder of a finished run"),
    ],
)
def test_another_folder_is_refused_in_one_line(
    files: list[str] | None, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    if files is not None:
        folder.mkdir()
        for name in files:
            (folder / name).write_text("{}")
    assert show.main([str(folder)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {folder}: ")
    assert reason in said.err
    assert said.err.count("\n") == 1
