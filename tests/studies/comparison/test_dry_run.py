"""What a comparison would run, without running it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from fedrobust.runtime.dry_run import Speed
from fedrobust.runtime.server import clean_twin
from fedrobust.studies.comparison import dry_run
from fedrobust.studies.comparison.dry_run import comparison_lines, plan_comparison
from fedrobust.studies.comparison.grid import read_grid


@pytest.fixture(autouse=True)
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training an image takes a second; no twin is in the cache."""
    monkeypatch.setattr(clean_twin, "cache_folder", lambda: tmp_path / "twins")
    monkeypatch.setattr(dry_run, "measure_speed", lambda *_: Speed(1.0, 0.0))


def words(out: Path, *more: str) -> list[str]:
    small = ["experiment=smoke", "data.num_images=300", "parallel=1", f"out={out}", *more]
    return [*small, "strategies=[fedavg,median]", "contaminations=[label_flip]"]


def test_cells_and_twins_are_counted(tmp_path: Path) -> None:
    with_clean = plan_comparison(
        read_grid(words(tmp_path / "out", "poisoned=[0,1]", "seeds=[0,1]")), Console(quiet=True)
    )
    without = plan_comparison(
        read_grid(words(tmp_path / "out", "poisoned=[1]", "seeds=[0,1]")), Console(quiet=True)
    )
    assert (len(with_clean.waiting), len(without.waiting)) == (8, 4)
    # the cells without poisoned clients are the twins; else one a rule and seed is trained
    assert (with_clean.twins, without.twins) == (0, 4)
    assert with_clean.seconds == pytest.approx(without.seconds)
    lines = comparison_lines(with_clean)
    assert lines[0] == "cells: 8 (2 rules, 1 attack, poisoned 0, 1, 2 seeds); 0 finished"
    assert lines[-1] == f"folder: {tmp_path / 'out'}"
    assert any(line.startswith("time: about ") for line in lines)
    assert not (tmp_path / "out").exists()


def test_finished_cells_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "is_cell_finished", lambda folder, cell: True)
    plan = plan_comparison(
        read_grid(words(tmp_path / "out", "poisoned=[1]", "seeds=[0]")), Console(quiet=True)
    )
    assert (len(plan.waiting), plan.twins, plan.seconds, plan.memory) == (0, 0, 0, None)
    assert comparison_lines(plan)[0].endswith("; 2 finished")
