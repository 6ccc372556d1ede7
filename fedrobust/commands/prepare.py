"""Published data sets, made ready: `fedrobust prepare [set] [folder] [key=value ...]`.

Nothing is downloaded. Exit codes: 0 done, 2 wrong input or a folder that is not whole.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fedrobust.utils.cli import run_command
from fedrobust.utils.machine import version_line

EPILOG = "sets: ham10000, fed_isic2019, camelyon17, chexpert, medmnist"


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="fedrobust prepare",
        description="Say where to get a published data set and under which licence, check a folder "
        "of it, and write a table of it that data=csv reads. Nothing is downloaded.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=version_line())
    parser.add_argument("set", nargs="?", help="left out: all of them")
    parser.add_argument("folder", nargs="?", type=Path, help="of its files, to be checked")
    parser.add_argument(
        "setting", nargs="*", help="of its source, for the table: label=Edema split=drawn"
    )
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write a table there")
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="and copies of the images, squeezed to squares"
    )
    parser.add_argument("--skip", action="store_true", help="leave out missing and damaged images")
    parser.add_argument("--quick", action="store_true", help="look at names only, open no image")
    asked = parser.parse_intermixed_args(words)
    return run_command(lambda: _prepare(asked))


def _prepare(asked: argparse.Namespace) -> None:
    from fedrobust.data.table import ImageSize
    from fedrobust.studies.preparation import Asked, prepare
    from fedrobust.utils.validation import check

    check("--size", asked.size, ImageSize | None)
    prepare(
        Asked(
            asked.set,
            asked.folder,
            tuple(asked.setting),
            asked.to,
            asked.size,
            asked.skip,
            asked.quick,
        )
    )
