"""Run a table's comparison again and compare its values with the stored ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from fedrobust.errors import RunError
from fedrobust.experiment.run_options import RunOptions
from fedrobust.reporting.console import make_console, print_last_line
from fedrobust.reporting.console.tables import new_table
from fedrobust.reporting.text import format_number
from fedrobust.studies.comparison.dry_run import comparison_lines, plan_comparison
from fedrobust.studies.comparison.grid import Grid
from fedrobust.studies.comparison.run import RESULTS, compare
from fedrobust.studies.reproduction.agreement import (
    MEAN,
    Agreement,
    cell_text,
    compare_values,
)
from fedrobust.studies.reproduction.selection import select_grid
from fedrobust.studies.reproduction.tables import StoredTable, read_values
from fedrobust.utils.counting import format_count
from fedrobust.utils.files import write_text

COMPARED: Final = "reproduction.csv"
MOST_LINES: Final = 40  # of values outside on the screen; the file has all


def reproduce(
    table: StoredTable, words: Sequence[str], options: RunOptions, *, quick: bool = False
) -> None:
    """Run a table or a part of it, and compare its values with the stored ones.

    Args:
        table: what is reproduced.
        words: settings as on the command line (`select_grid`).
        options: how the command runs.
        quick: whether to run the table's quick part only.

    Raises:
        ConfigError: a setting is wrong or would change the values.
        DataError: the data cannot be used, or nothing that was run is stored.
        RunError: a cell failed, or values lie outside their tolerance.
    """
    grid = select_grid(table, words, quick=quick)
    screen = make_console(quiet=options.quiet)
    if options.dry_run:
        print("dry run: no cell is run, nothing is written", flush=True)
        print(*comparison_lines(plan_comparison(grid, screen)), sep="\n", flush=True)
        return
    failed = compare(grid, screen)
    found = compare_values(table.values, read_values(grid.out / RESULTS), table.tolerances)
    path = grid.out / COMPARED
    write_text(path, found.compared.to_csv(index=False, lineterminator="\n"))
    screen.print(agreement_table(table, found))
    if failed:
        cell, reason = next(iter(failed.items()))
        raise RunError(f"{format_count(len(failed), 'cell')} failed, the first: {cell}: {reason}")
    if not found.outside.empty:
        raise RunError(outside_line(found, grid))
    print_last_line(screen, f"reproduced, all values within their tolerances: {path}")


def agreement_table(table: StoredTable, found: Agreement) -> RenderableType:
    """How far the values of each metric lie from the stored ones, and which lie outside."""
    shown = new_table(
        f"{table.name}: new values and stored ones",
        ["Values", "Compared", "Outside", "Farthest", "Tolerance"],
    )
    for (metric, kind), rows in found.compared.groupby(["metric", "kind"], sort=False):
        shown.add_row(
            f"{metric}, {'means over seeds' if kind == MEAN else 'single runs'}",
            str(len(rows)),
            str(int((~rows["within"]).sum())),
            _number(rows["difference"].abs().max()),
            f"{rows['tolerance'].iloc[0]:g}",
        )
    return Group(shown, *(Text(line) for line in _notes(found)))


def _notes(found: Agreement) -> Iterator[str]:
    outside = found.outside
    for _, row in outside.head(MOST_LINES).iterrows():
        yield value_text(row)
    if len(outside) > MOST_LINES:
        yield f"... and {len(outside) - MOST_LINES} more, in {COMPARED}"
    if found.unknown:
        count = format_count(len(found.unknown), "cell is", "cells are")
        yield f"{count} not stored, so not compared; the first: {found.unknown[0]}"


def value_text(row: pd.Series) -> str:
    """A value that lies outside, in words."""
    cell = cell_text(row["strategy"], row["contamination"], row["poisoned"], row["seed"])
    new, stored = (_number(row[name], 2) for name in ("new", "stored"))
    return f"{cell} · {row['metric']}: {new}, stored {stored} ± {row['tolerance']:g}"


def outside_line(found: Agreement, grid: Grid) -> str:
    """The line that ends a reproduction which failed."""
    count = format_count(len(found.outside), "value lies", "values lie")
    return (
        f"{count} outside of the tolerance, of {len(found.compared)}; all of them: "
        f"{grid.out / COMPARED}"
    )


def _number(value: float, digits: int = 2) -> str:
    return format_number(None if pd.isna(value) else float(value), digits)
