"""The tables of the results pages: which command gives each, its stored values, and how far new
ones may lie from them."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import yaml
from pydantic import Field

from fedrobust.errors import ConfigError, DataError
from fedrobust.utils.names import did_you_mean
from fedrobust.utils.validation import NonNegative, Words, check_settings, make_settings

DEFINITION = "table.yaml"
RESULTS, SUMMARY, DIFFERENCES = "results.csv.gz", "summary.csv", "differences.csv"
ORIGIN = "origin.yaml"
KEYS = ("strategy", "contamination", "poisoned", "seed", "metric")
NAMES = ("strategy", "contamination", "metric")  # of the keys those that are text

Text = Annotated[str, Field(min_length=1)]


@check_settings("")
@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far new values of a metric may lie from the stored ones, in the metric's unit.

    Attributes:
        cell: of one run; null: single runs are not compared
        mean: of the mean over the seeds of one rule under one attack; null: means are not compared
    """

    cell: NonNegative | None = None
    mean: NonNegative | None = None


@check_settings("")
@dataclass(frozen=True, slots=True, kw_only=True)
class TableSettings:
    """What table.yaml says.

    Attributes:
        about: what the table shows, in a line
        command: the settings of the comparison that gives it, as on a command line
        tolerances: for each metric of results.csv that is compared, how far off it may be
        needs: settings that everybody gives for themselves, each with what it is
        quick: the part that quick runs, by the names of the lists, as in {seeds: [0]}
        metrics: further metrics of results.csv that are stored, for the page; * stands for any text
    """

    about: Text
    command: Annotated[Sequence[str], Field(min_length=1)]
    tolerances: Mapping[str, Any]
    needs: Mapping[str, str] = field(default_factory=dict)
    quick: Annotated[Mapping[str, Sequence[Any]], Words("lists by name, as in {seeds: [0]}")] = (
        field(default_factory=lambda: {"seeds": [0]})
    )
    metrics: Sequence[str] = ()


@dataclass(frozen=True)
class StoredTable:
    """A table of a results page.

    Attributes:
        folder: its files.
        settings: what its definition says.
        tolerances: by metric.
    """

    folder: Path
    settings: TableSettings
    tolerances: Mapping[str, Tolerance]

    @property
    def name(self) -> str:
        """By which it is asked for."""
        return self.folder.name

    def stores(self, metric: str) -> bool:
        """Whether this metric of results.csv is stored."""
        patterns = (*self.tolerances, *self.settings.metrics)
        return any(fnmatch.fnmatchcase(metric, one) for one in patterns)

    @cached_property
    def values(self) -> pd.DataFrame:
        """The stored values, a row a cell and metric. Raises DataError."""
        return read_values(self.folder / RESULTS)

    @cached_property
    def origin(self) -> dict[str, Any]:
        """What made the stored values: commit, processor, hours; empty where it is not known."""
        path = self.folder / ORIGIN
        return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.exists() else {}


def results_folder() -> Path:
    """The folder of all tables: docs/results in a checkout, `results` in an installed package."""
    import fedrobust.configs

    root = Path(str(fedrobust.configs.__file__)).parents[1]
    return root / "results" if root.name == "fedrobust" else root / "docs" / "results"


def table_names(folder: Path | None = None) -> list[str]:
    """The names of all tables. folder: that of all; None: ours."""
    paths = (folder or results_folder()).glob(f"*/{DEFINITION}")
    return sorted(path.parent.name for path in paths)


def read_table(name: str, folder: Path | None = None) -> StoredTable:
    """One table.

    Args:
        name: of its folder.
        folder: that of all; None: ours.

    Raises:
        ConfigError: there is none of this name, or its definition is wrong.
    """
    place, known = folder or results_folder(), table_names(folder)
    if name not in known:
        listed = ", ".join(known) or "none"
        raise ConfigError(f"{name}: unknown table; {did_you_mean(name, known)}known are {listed}")
    path = place / name / DEFINITION
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: cannot be read as yaml ({error})") from error
    settings = make_settings(name, found, TableSettings)
    tolerances = {
        metric: make_settings(f"{name}.tolerances.{metric}", one, Tolerance)
        for metric, one in settings.tolerances.items()
    }
    return StoredTable(path.parent, settings, tolerances)


def read_values(path: Path) -> pd.DataFrame:
    """A results.csv, also a packed one; empty cells are undefined, whatever else names say.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    try:
        found = pd.read_csv(
            path, keep_default_na=False, na_values=[""], dtype=dict.fromkeys(NAMES, str)
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if lost := {*KEYS, "value"} - {*found.columns}:
        raise DataError(f"{path}: has no column {', '.join(sorted(lost))}; give a results.csv")
    return found
