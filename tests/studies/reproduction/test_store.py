"""Values of a finished comparison, stored for a page."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from fedrobust.errors import DataError
from fedrobust.studies.reproduction.store import store_results
from fedrobust.studies.reproduction.tables import read_table
from tests.helpers.stored_tables import NAME, store, values


def comparison(folder: Path, found: pd.DataFrame, commit: str = "1234567890") -> Path:
    """The folder of a comparison with these values and two cells."""
    cells = found.assign(cell=[f"cell{place % 2}" for place in range(len(found))])
    cells.to_csv(folder / "results.csv", index=False)
    for name in ("summary.csv", "differences.csv"):
        (folder / name).write_text(f"{name}\n")
    for number in range(2):
        place = folder / "cells" / f"cell{number}"
        place.mkdir(parents=True, exist_ok=True)
        manifest = {
            "started_utc": f"2030-01-0{number + 1}T00:00:00",
            "git": {"commit": commit, "dirty": bool(number)},
            "processor": "a processor",
            "client_threads": 1,
            "packages": {"torch": "2.9", "flwr": "1.42"},
        }
        (place / "manifest.json").write_text(json.dumps(manifest))
        (place / "cost.json").write_text(json.dumps({"seconds": 1800}))
    return folder


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    place = tmp_path / "compare"
    place.mkdir()
    return place


def test_the_named_metrics_are_stored_with_their_origin(tmp_path: Path, finished: Path) -> None:
    table = store(tmp_path)
    new = pd.concat(
        [
            values(drop=1 / 3),
            values().assign(metric="influence.poisoned").drop_duplicates(["strategy", "seed"]),
            values().assign(metric="seconds.run").drop_duplicates(["strategy", "seed"]),
        ]
    )
    written = store_results(table, comparison(finished, new))
    assert {path.name for path in written} == {
        "results.csv.gz",
        "summary.csv",
        "differences.csv",
        "origin.yaml",
    }
    again = read_table(NAME, tmp_path)
    assert set(again.values["metric"]) == {
        "drop.poisoning.combined",
        "clean.f1",
        "influence.poisoned",
    }
    assert again.values["value"].min() == 0.333333
    assert again.origin == {
        "commit": "1234567 and 1234567, with changes",
        "cells": 2,
        "hours": 1.0,
        "processor": "a processor",
        "threads": "1",
        "date": "2030-01-02",
        "torch": "2.9",
        "flwr": "1.42",
    }


def test_equal_values_give_equal_bytes(tmp_path: Path, finished: Path) -> None:
    table = store(tmp_path)
    comparison(finished, values())
    path = store_results(table, finished)[0]
    first = path.read_bytes()
    assert store_results(table, finished)[0].read_bytes() == first


def test_failed_cells_and_missing_metrics_are_refused(tmp_path: Path, finished: Path) -> None:
    table = store(tmp_path)
    new = values()
    comparison(finished, new[new["metric"] != "clean.f1"])
    with pytest.raises(DataError, match=r"has no clean\.f1, which small names"):
        store_results(table, finished)
    new.loc[0, "metric"] = "failed"
    comparison(finished, new)
    with pytest.raises(DataError, match="1 cell failed, the first: cell0"):
        store_results(table, finished)
