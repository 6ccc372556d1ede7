"""Put what a finished comparison gave where its results page is made from."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yaml

from fedrobust.errors import DataError
from fedrobust.reporting.filenames import MANIFEST
from fedrobust.studies.comparison import run as comparison
from fedrobust.studies.comparison.cell_results import FAILED
from fedrobust.studies.comparison.executor import CELLS
from fedrobust.studies.comparison.worker import COST
from fedrobust.studies.reproduction.tables import (
    DIFFERENCES,
    KEYS,
    ORIGIN,
    RESULTS,
    SUMMARY,
    StoredTable,
    read_values,
)
from fedrobust.utils.counting import format_count
from fedrobust.utils.files import write, write_text

SHOWN_PACKAGES: Final = ("torch", "flwr")
DECIMALS: Final = 6


def store_results(table: StoredTable, folder: Path) -> list[Path]:
    """Store the values of a finished comparison: summary.csv and differences.csv as they are, of
    results.csv the metrics that the table names, and where all of it comes from.

    Args:
        table: whose values they are.
        folder: the comparison's.

    Returns:
        The files that were written.

    Raises:
        DataError: the comparison has failed cells, or lacks a metric that the table names.
    """
    values = read_values(folder / comparison.RESULTS)
    if failed := values[values["metric"] == FAILED]["cell"].tolist():
        raise DataError(
            f"{folder}: {format_count(len(failed), 'cell')} failed, the first: {failed[0]}; the "
            "same comparison tries them again"
        )
    if lost := sorted(set(table.tolerances) - set(values["metric"])):
        raise DataError(f"{folder}: has no {', '.join(lost)}, which {table.name} names")
    kept = values[values["metric"].map(table.stores)][[*KEYS, "value", "unit"]]
    kept = kept.assign(value=kept["value"].round(DECIMALS))
    packed = write_packed(table.folder / RESULTS, kept)
    copies = [
        Path(shutil.copyfile(folder / name, table.folder / name)) for name in (SUMMARY, DIFFERENCES)
    ]
    cells = sorted((folder / CELLS / cell) for cell in values["cell"].unique())
    text = yaml.safe_dump(describe_origin(cells), sort_keys=False, allow_unicode=True)
    return [packed, *copies, write_text(table.folder / ORIGIN, text)]


def write_packed(path: Path, frame: pd.DataFrame) -> Path:
    """A table as CSV packed with gzip; equal tables give equal bytes."""
    text = frame.to_csv(index=False, lineterminator="\n")
    return write(path, [gzip.compress(text.encode("utf-8"), mtime=0)])


def describe_origin(cells: Sequence[Path]) -> dict[str, Any]:
    """What made these cells: commits, versions, processors, hours of all cells together."""
    manifests = [json.loads((cell / MANIFEST).read_text(encoding="utf-8")) for cell in cells]
    costs = [
        json.loads((cell / COST).read_text(encoding="utf-8"))
        for cell in cells
        if (cell / COST).exists()
    ]
    seconds = sum(one.get("seconds") or 0.0 for one in costs)
    return {
        "commit": _all_of(_commit(one) for one in manifests),
        "cells": len(cells),
        "hours": round(seconds / 3600, 2),
        "processor": _all_of(one.get("processor") for one in manifests),
        "threads": _all_of(one.get("client_threads") for one in manifests),
        "date": max(str(one["started_utc"])[:10] for one in manifests),
        **{
            name: _all_of(one["packages"].get(name) for one in manifests) for name in SHOWN_PACKAGES
        },
    }


def _commit(manifest: dict[str, Any]) -> str | None:
    state = manifest.get("git") or {}
    commit = state.get("commit")
    changed = ", with changes" if commit and state.get("dirty") else ""
    return f"{commit[:7]}{changed}" if commit else None


def _all_of(values: Any) -> str:
    known = dict.fromkeys(str(value) for value in values if value is not None)
    return " and ".join(known) or "unknown"
