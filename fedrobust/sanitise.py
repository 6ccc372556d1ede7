"""Sanitising a pooled set: `python -m fedrobust.sanitise <output folder of a run> [<that of another
seed> ...]`.

The training images of all hospitals of a finished run, with their contamination, are put into one
pool; the run's final model embeds them, and every defence says what it would drop. Exit codes: 0
done, 1 failed, 2 wrong input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedrobust.experiment.run_options import split_quiet
from fedrobust.utils.cli import called_as, run_command
from fedrobust.utils.machine import version_line
from fedrobust.utils.plugins import PLUGINS_HELP, named_in, plugins_as_option


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=called_as("sanitise"),
        description="What the sphere and slab defences would drop.",
    )
    parser.add_argument("--version", action="version", version=version_line())
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="folder",
        help="output folder of a finished run; of several seeds all",
    )
    parser.add_argument(
        "--quantile",
        type=float,
        default=0.2,
        help="share of every class that is dropped (default 0.2)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        help="scores up to here are kept all the same (default 0)",
    )
    parser.add_argument("--plugins", default="", help=PLUGINS_HELP)
    if code := run_command(
        lambda: _run(parser, sys.argv[1:]),
        reword=lambda line: plugins_as_option(line.replace("sanitiser.", "--")),
    ):
        sys.exit(code)


def _run(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    _, others = split_quiet(words)  # the table is all that is shown
    given = parser.parse_intermixed_args(others)
    from fedrobust.studies.sanitisation import compare_defences

    plugins = named_in(given.plugins.strip("[]"))
    compare_defences(given.folders, given.quantile, given.threshold, plugins)


if __name__ == "__main__":
    main()
