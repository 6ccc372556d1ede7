"""A published table, run again and compared: `fedrobust reproduce [table] [key=value ...]`.

Exit codes: 0 all values within their tolerances, 1 values outside or failed runs, 2 wrong input,
130 interrupted (the same command resumes).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from fedrobust.utils.cli import run_command
from fedrobust.utils.machine import version_line

EPILOG = (
    "seeds=[0], strategies=[...], contaminations=[...] and poisoned=[...] name a part of the "
    "table; out=, parallel=, engine=, device=, data.root= and the like say where and how it runs. "
    "Other settings would change the values and are refused. dry_run=true says how long it takes."
)


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="fedrobust reproduce",
        description="Run what a results page shows, and compare the values with the stored ones. "
        "Without a table: which there are.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=version_line())
    parser.add_argument("table", nargs="?", help="left out: all of them are listed")
    parser.add_argument("setting", nargs="*", help="key=value, as of compare")
    parser.add_argument("--quick", action="store_true", help="run the table's quick part only")
    asked = parser.parse_intermixed_args(words)
    return run_command(
        lambda: _reproduce(asked),
        reword=lambda line: line.replace("hydra.run.dir", "out"),
        if_interrupted="nothing was started",
    )


def _reproduce(asked: argparse.Namespace) -> None:
    from fedrobust.experiment.run_options import split_options
    from fedrobust.studies.reproduction.tables import read_table

    if asked.table is None:
        print(*_lines(), sep="\n")
        return
    options, words = split_options(asked.setting)
    table = read_table(asked.table)
    from fedrobust.studies.reproduction.run import reproduce

    reproduce(table, words, options, quick=asked.quick)


def _lines() -> Iterator[str]:
    """Every table, what it shows and how to call it."""
    from fedrobust.experiment.settings_help import setting_lines
    from fedrobust.studies.reproduction.tables import read_table, table_names

    names = table_names()
    if not names:
        yield "no tables"
    for name in names:
        table = read_table(name)
        needs = "".join(f" {key}=<{about}>" for key, about in table.settings.needs.items())
        hours = table.origin.get("hours")
        took = "" if hours is None else f" Took {hours:g} hours of cells."
        yield from setting_lines(name, f"{table.settings.about}.{took}")
        yield f"      fedrobust reproduce {name}{needs}"
