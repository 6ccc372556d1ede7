"""Errors on the command line: one line and an exit code."""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from fedrobust.errors import FedrobustError, RunError

FEW = 15  # choices that a line has room for


def explain(error: BaseException) -> tuple[str | None, int]:
    """(line, exit code); the line is None for a defect of ours, which deserves its traceback.

    Wrong input of any kind, Hydra's own refusals included: code 2. A run that failed: code 1.
    """
    if isinstance(error, RunError):
        return str(error), 1
    if isinstance(error, FedrobustError):
        return str(error), 2
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _hydra_line(error), 2
    # a full disk, a folder that must not be written to
    if isinstance(error, OSError) and error.strerror:
        return (
            (
                f"{error.filename or 'the output'}: {error.strerror}; choose another "
                "hydra.run.dir or make room"
            ),
            1,
        )
    return None, 1


def run_command(
    action: Callable[[], object],
    reword: Callable[[str], str] = str,
    if_interrupted: str = "",
) -> int:
    """Do what a command line asks for and give its exit code.

    Args:
        action: what the command does.
        reword: changes the line of an error, e.g. where an option has another name than the key.
        if_interrupted: what is said of a Ctrl-C that says nothing itself.

    Returns:
        0; after an error that of `explain`, and 130 after Ctrl-C, each with one line on standard
        error. A defect of ours shows its traceback.
    """
    # Hydra's own errors reach us as exceptions, and we turn them into one line
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        action()
    except KeyboardInterrupt as stopped:
        text = str(stopped) or if_interrupted
        print(f"interrupted: {text}" if text else "interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        line, code = explain(error)
        if line is None:
            traceback.print_exception(error)
        else:
            print(f"error: {reword(line)}", file=sys.stderr)
        return code
    return 0


def _hydra_line(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, OverrideParseException):
        reason = "; ".join(
            line for line in text.splitlines() if not line.startswith(("See ", "Error parsing"))
        )
        return f"{error.override}: cannot be read ({reason}); write key=value, a list as key=[1,2]"
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return f"{unknown[1]}: unknown key; {_unknown_remedy(unknown[1])}"
    missing = re.search(
        r"Could not find '([^']+)'\s*Available options in '([^']+)':\s*(.*)", text, re.DOTALL
    )
    if missing:
        options = missing[3].split("Config search path")[0].split()
        return (
            f"{missing[1].replace('/', '=', 1)}: no such choice; "
            f"{_choices(missing[2], missing[1].rpartition('/')[2], options)}"
        )
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())[:300]


def _choices(group: str, word: str, options: Sequence[str]) -> str:
    """All choices of a small group, of a large one those that look like the word."""
    if len(options) <= FEW:
        return f"{group} can be {', '.join(options)}"
    near = difflib.get_close_matches(word, options, n=5, cutoff=0.4)
    return (
        f"{'try ' + ', '.join(near) + '; ' if near else ''}all {len(options)} are "
        f"in configs/{group}"
    )


def _unknown_remedy(key: str) -> str:
    """Keywords of torch and timm are not listed in our files: they are added, not set."""
    if key.rpartition(".")[0] in ("client.optimizer", "client.lr_plateau", "model.options"):
        return f"a keyword of the library is added with a plus sign: +{key}=..."
    return "`python -m fedrobust.simulate --cfg job` lists all keys"
