"""All commands as one: `fedrobust simulate ...` is `python -m fedrobust.simulate ...`, and so on
for each command that trains; the others have this form alone.

Exit codes: those of the command, and 2 for one that does not exist. A command is imported once it
is known which.
"""

from __future__ import annotations

import sys
from importlib import import_module

from fedrobust.utils.cli import run_command
from fedrobust.utils.machine import version_line
from fedrobust.utils.names import did_you_mean

COMMANDS = {
    "simulate": "train one federation and report how robust it is; resume=<folder> resumes one",
    "compare": "rank rules under attacks, with paired tests and intervals",
    "ablation": "train the poster's models centrally and measure what noise costs them",
    "contribution": "what each hospital adds to performance and drop: Shapley values",
    "meff": "fuse models and attack the fusion",
    "sanitise": "what defences of the training data would drop of a finished run",
    "federation": "run real sites: keys, start scripts, checks, a demo",
    "prepare": "where to get a published data set; check its folder, write a table of it",
    "list": "what there is to choose: [group] [name]",
    "reproduce": "run a published table again and compare it with the stored values: [table]",
    "show": "print the result of a finished run or comparison: <folder>",
    "completion": "print a completion script for bash",
}
# modules of fedrobust.commands
SMALLER = ("prepare", "list", "reproduce", "contribution", "show", "completion")
MODULES = {"federation": "federation.__main__"} | {name: f"commands.{name}" for name in SMALLER}
HELP = {"--help", "-h", "help"}


def main() -> int:
    """The command line; returns the exit code."""
    first, *words = sys.argv[1:] or ["--help"]
    if first in HELP:
        return run_command(lambda: print(_help()))
    if first == "--version":
        return run_command(lambda: print(version_line()))
    if first not in COMMANDS:
        print(f"error: {_refusal(first)}", file=sys.stderr)
        return 2
    sys.argv[:] = [f"fedrobust {first}", *words]  # as if the command were a program of its own
    code = import_module(f"fedrobust.{MODULES.get(first, first)}").main()
    return int(code or 0)


def _help() -> str:
    lines = [f"  {name:<14}{about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            "usage: fedrobust <command> [...]",
            "",
            *lines,
            "",
            "fedrobust <command> --help says the rest; fedrobust --version names the versions.",
        ]
    )


def _refusal(first: str) -> str:
    if "=" in first:
        return f"{first}: is a setting; the command comes first, as in fedrobust simulate {first}"
    return f"{first}: unknown command; {did_you_mean(first, COMMANDS)}known are " + ", ".join(
        COMMANDS
    )


if __name__ == "__main__":
    sys.exit(main())
