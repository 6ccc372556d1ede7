"""`fedrobust reproduce`: what it lists, its exit codes and what it says of values outside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedrobust.commands import reproduce as command
from fedrobust.studies.comparison.grid import Grid
from fedrobust.studies.reproduction import run, tables
from tests.helpers.stored_tables import store, values


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose one table is the small one; a comparison gives its stored values."""
    store(tmp_path)
    monkeypatch.setattr(tables, "results_folder", lambda: tmp_path)
    give(monkeypatch, values())
    return tmp_path


def give(monkeypatch: pytest.MonkeyPatch, found: pd.DataFrame, **failed: str) -> None:
    """Comparisons have these values for the seeds that they are asked for."""

    def compare(grid: Grid, _: Any) -> Mapping[str, str]:
        grid.out.mkdir()
        found[found["seed"].isin(grid.seeds)].to_csv(grid.out / "results.csv", index=False)
        return failed

    monkeypatch.setattr(run, "compare", compare)


def test_without_a_table_all_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "small" / "origin.yaml").write_text("hours: 1.5\n")
    assert command.main([]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "small two rules under a sign flip. Took 1.5 hours of cells." in shown
    assert "fedrobust reproduce small" in shown


def test_equal_values_end_with_code_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["small", "seeds=[1]", f"out={folder / 'out'}"]) == 0
    shown = capsys.readouterr().out
    assert "drop.poisoning.combined" in shown
    assert shown.rstrip().endswith("reproduction.csv")
    kept = pd.read_csv(folder / "out" / "reproduction.csv")
    assert set(kept["seed"].dropna()) == {1}
    assert kept["within"].all()


def test_values_outside_are_listed_with_code_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, values(drop=13.0))
    assert command.main(["small", f"out={folder / 'out'}"]) == 1
    shown = capsys.readouterr()
    words = " ".join(shown.out.split())
    assert (
        "fedavg · sign_flip · 1 poisoned · seed 1 · drop.poisoning.combined: "
        "14.00, stored 11.00 ± 2" in words
    )
    assert "mean over seeds · drop.poisoning.combined: 13.50, stored 10.50 ± 1" in words
    assert shown.err.startswith("error: 12 values lie outside of the tolerance, of 16; all of them")
    assert shown.err.count("\n") == 1


def test_a_failed_cell_ends_with_code_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, values(), cell="no memory")
    assert command.main(["small", f"out={folder / 'out'}"]) == 1
    assert "1 cell failed, the first: cell: no memory" in capsys.readouterr().err


def test_wrong_words_end_with_code_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["smaller"]) == 2
    assert command.main(["small", "rounds=3"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: smaller: unknown table; did you mean small? known are small"
    assert lines[1].startswith("error: rounds=3: changes what is run")
    assert not (folder / "out").exists()
