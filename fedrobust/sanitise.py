"""Sanitising a pooled set: `python -m fedrobust.sanitise <output folder of a run> [<that of another
seed> ...]`.

The training images of all hospitals of a finished run, with their contamination, are put into one
pool; the run's final model embeds them, and every defence says what it would drop. Exit codes: 0
done, 1 failed, 2 wrong input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from fedrobust.studies.sanitisation import defences, defences_table, evaluate_defence, read_pool
from fedrobust.utils.cli import run_command
from fedrobust.utils.counting import format_count
from fedrobust.utils.machine import version_line


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fedrobust.sanitise",
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
    given = parser.parse_intermixed_args()
    if code := run_command(
        lambda: _run(given), reword=lambda line: line.replace("sanitiser.", "--")
    ):
        sys.exit(code)


def _run(given: argparse.Namespace) -> None:
    # wrong settings are refused before anything is loaded
    defences(given.quantile, given.threshold, etf=True)
    pools = [read_pool(folder) for folder in given.folders]
    etf = all(one.anchors_dK is not None for one in pools)
    rows = [
        evaluate_defence(pools, one) for one in defences(given.quantile, given.threshold, etf=etf)
    ]
    images, bad = (
        sum(many)
        for many in zip(
            *((len(one.labels_N), int(one.altered_N.sum())) for one in pools), strict=True
        )
    )
    runs = f" in {format_count(len(pools), 'run')}" if len(pools) > 1 else ""
    trained = format_count(images, "training image")
    Console().print(
        defences_table(
            rows,
            f"{trained}{runs}, {bad} altered ({100 * bad / max(images, 1):.1f} %)",
        )
    )


if __name__ == "__main__":
    main()
