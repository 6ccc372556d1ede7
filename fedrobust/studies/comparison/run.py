"""A whole comparison: check every cell, run what is not finished, write what all of it says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from pandas.errors import EmptyDataError
from rich.console import Console

from fedrobust.reporting.console import RunConsole, print_last_line, print_line, transient_bar
from fedrobust.reporting.run_log import keep_log
from fedrobust.studies.comparison import figures, leaderboard, page
from fedrobust.studies.comparison.cell_results import long_table, read_result
from fedrobust.studies.comparison.executor import (
    CELLS,
    is_cell_finished,
    rename_older_cells,
    run_cells,
)
from fedrobust.studies.comparison.grid import Cell, Grid, cells
from fedrobust.studies.comparison.pool import Machine
from fedrobust.studies.comparison.preflight import CheckedGrid, check_cells
from fedrobust.studies.comparison.progress import Screen
from fedrobust.studies.comparison.results_table import ComparisonResults
from fedrobust.studies.comparison.screen import ranking_tables
from fedrobust.studies.comparison.summary import summarise, summary_frame
from fedrobust.utils.counting import format_count
from fedrobust.utils.files import write_text
from fedrobust.utils.locking import hold_lock
from fedrobust.utils.machine import gpus
from fedrobust.utils.threads import cores

RESULTS, LEADERBOARD, DIFFERENCES = "results.csv", "leaderboard.md", "differences.csv"
RANKING, SUMMARY = "ranking.csv", "summary.csv"


Write = Callable[[Mapping[Cell, str]], None]


def compare(grid: Grid, console: Console | None = None) -> Mapping[Cell, str]:
    """Run the grid into grid.out; gives the cells that failed, with their reasons. Nothing is
    written before all is checked.

    Raises ConfigError or DataError for what cannot be run, OSError where the folder cannot be
    written to, KeyboardInterrupt that names how to resume.
    """
    screen = RunConsole() if console is None else console
    wanted = cells(grid)
    checked = check_all(wanted, grid, screen)
    return run_grid(
        wanted, checked, grid, screen, lambda failed: _write(grid, wanted, checked, failed, screen)
    )


def run_grid(
    wanted: Sequence[Cell], checked: CheckedGrid, grid: Grid, screen: Console, write: Write
) -> Mapping[Cell, str]:
    """Run those of these cells of the grid that are not finished, and `write` what all of them say;
    else as `compare`."""
    grid.out.mkdir(parents=True, exist_ok=True)
    folder = grid.out / CELLS
    with hold_lock(grid.out), keep_log(f"output folder {grid.out}") as notes:
        notes.start(grid.out)
        rename_older_cells(folder, wanted)
        waiting = [cell for cell in wanted if not is_cell_finished(folder / cell.folder, cell)]
        machine = machine_for(grid, wanted[0])
        skipped = (
            f", {format_count(len(wanted) - len(waiting), 'is', 'are')} finished"
            if len(waiting) < len(wanted)
            else ""
        )
        print_line(
            screen,
            f"{format_count(len(wanted), 'cell')}{skipped}; {machine.parallel} side by side, "
            f"{format_count(machine.threads, 'thread')} each, in {grid.out}",
        )
        try:
            with Screen(len(waiting), folder, screen) as watch:
                reasons = run_cells(
                    waiting, folder, checked.families, machine, watch, pictures=grid.pictures
                )
            failed = {cell: reasons[cell.folder] for cell in wanted if cell.folder in reasons}
            write(failed)
        except KeyboardInterrupt:
            done = sum(is_cell_finished(folder / cell.folder, cell) for cell in wanted)
            raise KeyboardInterrupt(
                f"{done} of "
                f"{format_count(len(wanted), 'cell is finished', 'cells are finished')}; "
                f"the same command resumes in {grid.out}"
            ) from None
    return failed


def read_ranking(folder: Path) -> pd.DataFrame:
    """ranking.csv of a comparison's folder; without rows where no client was poisoned."""
    try:
        return pd.read_csv(folder / RANKING)
    except (FileNotFoundError, EmptyDataError):
        return pd.DataFrame({"poisoned": []})


def check_all(wanted: Sequence[Cell], grid: Grid, screen: Console) -> CheckedGrid:
    """`check_cells` with a bar."""
    with transient_bar(screen, "checking", len(wanted)) as advance:
        return check_cells(wanted, grid.threads, advance)


def machine_for(grid: Grid, cell: Cell) -> Machine:
    """Number of cells at once: as asked for; else one a GPU, or as many as the cores allow;
    one where a cell has an engine of many processes of its own."""
    alone = cell.settings.engine.factory == "inline_engine"
    number = gpus() if cell.settings.device != "cpu" else 0
    parallel = grid.parallel or ((number or max(1, cores() // grid.threads)) if alone else 1)
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = tuple(given.split(",")) if given else tuple(str(one) for one in range(number))
    dealt = names if alone and number > 1 else ()
    return Machine(parallel, grid.threads, dealt, grid.cell_seconds)


def _write(
    grid: Grid,
    wanted: Sequence[Cell],
    checked: CheckedGrid,
    failed: Mapping[Cell, str],
    screen: Console,
) -> None:
    print_line(screen, "reading the results, resampling")
    results = tuple(
        read_result(cell, grid.out / CELLS / cell.folder) for cell in wanted if cell not in failed
    )
    rules, attacks = ([one.name for one in part] for part in (grid.strategies, grid.contaminations))
    found = ComparisonResults(
        tuple(rules),
        tuple(attacks),
        grid.seeds,
        checked.uses,
        results,
        failed,
        grid.draws,
        grid.weak_below,
    )
    _write_csv(grid.out / RESULTS, long_table(results, failed))
    if not results:
        return
    rankings = leaderboard.rankings_of(found)
    _write_csv(grid.out / DIFFERENCES, leaderboard.difference_table(found, rankings))
    _write_csv(grid.out / RANKING, leaderboard.ranking_frame(found, rankings))
    _write_csv(grid.out / SUMMARY, summary_frame(summarise(found, rankings)))
    shown = figures.draw_figures(found, grid.out)
    write_text(grid.out / LEADERBOARD, leaderboard.leaderboard(found, rankings, shown))
    screen.print(ranking_tables(found, rankings))
    names = [LEADERBOARD, RANKING, DIFFERENCES, SUMMARY, RESULTS]
    shown_page = page.write_page(found, rankings, [*names, *shown], grid.out)
    print_last_line(screen, f"leaderboard: {shown_page}")


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))
