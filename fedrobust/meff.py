"""MEFF, ensemble feature fusion: `python -m fedrobust.meff evasion=pgd <overrides>` fuses the
client models of a federation; with `--member "client=adversarial" --member "model=resnet18
client=sgd" ...` it trains the members centrally, one by one, and fuses those.

Shown are the global model or the members, their fusion, and the fusion with a trained classifier on
top: on the clean test images and under the attack, which knows each of these models; with intervals
over test images, and over seeds with `--seeds 0,1,2`; `quiet=true`: the last table alone, or with
`--json` where the results are. Exit codes: 0 done, 1 failed, 2 wrong input,
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fedrobust.errors import ConfigError
from fedrobust.experiment.compose import check_command_line
from fedrobust.experiment.run_options import split_quiet
from fedrobust.utils import files
from fedrobust.utils.cli import called_as, run_command
from fedrobust.utils.machine import version_line


def _run(given: argparse.Namespace) -> None:
    quiet, others = split_quiet(given.overrides)
    words = check_command_line(others)
    if given.json is not None and not given.json.parent.is_dir():
        raise ConfigError(f"--json={given.json}: its folder does not exist; make it first")
    from fedrobust.reporting.console import ResultConsole, make_console, print_last_line
    from fedrobust.studies.meff.seeds import fuse_with_seeds

    console = make_console(quiet=quiet)
    document, table = fuse_with_seeds(words, given.member, given.seeds, console)
    if given.json is None:
        if quiet:
            ResultConsole().print(table)
        return
    asked = {"schema": 1, "overrides": others, "members": list(given.member)}
    text = json.dumps(asked | document, indent=2, allow_nan=False)
    written = files.write(given.json, [text.encode(), b"\n"])
    print_last_line(console, f"results: {written}")


def _seeds(text: str) -> list[int]:
    """`0,1,2`; for argparse."""
    words = text.split(",")
    if not all(word.isdigit() for word in words) or len(set(words)) != len(words):
        raise argparse.ArgumentTypeError(f"{text}: must be different whole numbers, as in 0,1,2")
    return [int(word) for word in words]


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=called_as("meff"), description="Ensemble feature fusion (docs/meff.md)."
    )
    parser.add_argument("--version", action="version", version=version_line())
    parser.add_argument("overrides", nargs="*", help="settings as of fedrobust.simulate")
    parser.add_argument(
        "--member",
        action="append",
        default=[],
        metavar="OVERRIDES",
        help="a centrally trained member: its own settings",
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default=[],
        help="as in 0,1,2: all of it with each of these seeds (that of the settings)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes the results there too")
    # settings may stand between the options
    if code := run_command(lambda: _run(parser.parse_intermixed_args(words))):
        sys.exit(code)


if __name__ == "__main__":
    main()
