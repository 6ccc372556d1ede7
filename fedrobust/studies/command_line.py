"""Command lines of grids: help, and an exit code that says whether all cells were finished."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files

from fedrobust.errors import RunError
from fedrobust.studies.comparison.grid import Cell
from fedrobust.utils.cli import run_command

HELP = ("-h", "--help")


def run_grid_command(page: str, start: Callable[[Sequence[str]], Mapping[Cell, str]]) -> None:
    """Run `start` with the words of the command line. page: the file in configs/ that
    --help shows.

    Exit codes: 0 done, 1 at least one cell failed, 2 wrong input, 130 interrupted.
    """

    def action() -> None:
        if set(HELP) & set(sys.argv[1:]):
            print(files("fedrobust.configs").joinpath(page).read_text(encoding="utf-8"), end="")
            return
        failed = start(sys.argv[1:])
        if failed:
            cell, reason = next(iter(failed.items()))
            raise RunError(f"{len(failed)} cells failed, the first: {cell}: {reason}")

    if code := run_command(
        action,
        reword=lambda line: line.replace("hydra.run.dir", "out"),
        if_interrupted="nothing was started",
    ):
        sys.exit(code)
