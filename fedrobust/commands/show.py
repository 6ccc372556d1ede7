"""The result of a finished run or comparison: `fedrobust show <its output folder>`.

Exit codes: 0 done, 2 wrong input.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fedrobust.utils.cli import run_command
from fedrobust.utils.machine import version_line
from fedrobust.utils.plugins import PLUGINS_HELP, named_in, plugins_as_option


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="fedrobust show",
        description="Print the tables that ended a run, or the ranking of a comparison.",
    )
    parser.add_argument("--version", action="version", version=version_line())
    parser.add_argument("folder", type=Path, help="output folder of a finished run or comparison")
    parser.add_argument("--plugins", default="", help=PLUGINS_HELP)
    return run_command(lambda: _show(parser.parse_args(words)), reword=plugins_as_option)


def _show(asked: argparse.Namespace) -> None:
    from fedrobust.studies.finished import show_folder

    show_folder(asked.folder, named_in(asked.plugins.strip("[]")))
