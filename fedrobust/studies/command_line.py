"""What the command lines of grids have in common: help, exit codes, and one line for whatever went
wrong."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files

from fedrobust.studies.comparison.grid import Cell
from fedrobust.utils.cli import explain

HELP = ("-h", "--help")


def run_command(page: str, start: Callable[[Sequence[str]], Mapping[Cell, str]]) -> None:
    """Run `start` with the words of the command line. page: the file in configs/ that --help shows.

    Exit codes: 0 done, 1 at least one cell failed, 2 wrong input, 130 interrupted.
    """
    # Hydra's own errors reach us as exceptions, and we turn them into one line
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        if set(HELP) & set(sys.argv[1:]):
            print(files("fedrobust.configs").joinpath(page).read_text(encoding="utf-8"), end="")
            return
        failed = start(sys.argv[1:])
    except KeyboardInterrupt as stopped:
        print(f"interrupted: {str(stopped) or 'nothing was started'}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line, code = explain(error)
        if line is None:
            traceback.print_exception(error)
        else:
            print(f"error: {line.replace('hydra.run.dir', 'out')}", file=sys.stderr)
        sys.exit(code)
    if failed:
        print(
            f"error: {len(failed)} cells failed, the first: {next(iter(failed))}: "
            f"{next(iter(failed.values()))}",
            file=sys.stderr,
        )
        sys.exit(1)
