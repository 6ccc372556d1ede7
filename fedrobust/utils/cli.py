"""Errors on the command line: one line and an exit code."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from fedrobust.errors import FedrobustError, RunError
from fedrobust.utils.encoding import show_any_text
from fedrobust.utils.files import NO_ROOM
from fedrobust.utils.garbage import rare_full_collections
from fedrobust.utils.names import shown_name
from fedrobust.utils.notices import hold_lines
from fedrobust.utils.output import UNREAD, finish_output

# as pathlib and getpass say it of a user without an entry in the system's list
NO_HOME = re.compile(r"determine home directory|getpwuid\(\): uid not found")
NO_TEMPORARY = "No usable temporary directory"  # as the module tempfile says it
# how names begin that tempfile, Ray, torch and we make there
TEMPORARY = ("tmp", "ray", "torch", "pymp-", "fedrobust-")


def called_as(command: str) -> str:
    """How a command is called, in the form in which this process was: `fedrobust simulate`, or
    `python -m fedrobust.simulate`."""
    short = sys.argv[0].startswith("fedrobust ")
    return f"fedrobust {command}" if short else f"python -m fedrobust.{command}"


def explain(error: BaseException) -> tuple[str | None, int]:
    """(line, exit code); the line is None for a defect of ours, which deserves its traceback.

    Wrong input of any kind: code 2. A run that failed: code 1. Names in the line, of files, columns
    and keys, hold no sign that a terminal obeys.
    """
    line, code = _line_and_code(error)
    return None if line is None else "\n".join(map(shown_name, line.split("\n"))), code


def _line_and_code(error: BaseException) -> tuple[str | None, int]:
    if isinstance(error, RunError):
        return str(error), 1
    if isinstance(error, FedrobustError):
        return str(error), 2
    if isinstance(error, OSError) and error.strerror:
        return _explain_system(error), 1
    if isinstance(error, (RuntimeError, KeyError)) and NO_HOME.search(str(error)):
        return (
            "HOME: is not set, and the system knows no home folder of this user; set HOME to a "
            "folder that can be written to",
            2,
        )
    return None, 1


def _explain_system(error: OSError) -> str:
    """A full disk, a folder that must not be written to, a file that is not there; the remedy
    depends on whose place it is."""
    reason = str(error.strerror)
    if error.filename is None and NO_TEMPORARY in reason:
        return f"{reason}; set TMPDIR to a folder that can be written to"
    place = "the output" if error.filename is None else str(error.filename)
    if error.filename is not None and _is_temporary(Path(os.fsdecode(error.filename))):
        return f"{place}: {reason}; set TMPDIR to a folder of your own with free space"
    if error.filename is None or error.errno in NO_ROOM:
        return f"{place}: {reason}; choose another hydra.run.dir or free some space"
    return f"{place}: {reason}; check this path"


def _is_temporary(path: Path) -> bool:
    """Whether a program made the path in the system's temporary folder, not the user."""
    try:
        inside = path.relative_to(tempfile.gettempdir())
    except (OSError, ValueError):
        return False
    return inside.name == "" or inside.parts[0].startswith(TEMPORARY)


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
        error. A defect of ours shows its traceback. 141, as a shell says it, without a word where
        standard output is read no longer (`| head`).
    """
    show_any_text()
    # Hydra's own errors reach us as exceptions, and we turn them into one line
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        code = _exit_code(action, reword, if_interrupted)
    finally:  # argparse leaves by SystemExit
        is_read = finish_output()
    return code if is_read else code or UNREAD


def _exit_code(
    action: Callable[[], object], reword: Callable[[str], str], if_interrupted: str
) -> int:
    try:
        with rare_full_collections(), hold_lines():
            action()
    except KeyboardInterrupt as stopped:
        text = str(stopped) or if_interrupted
        print(f"interrupted: {text}" if text else "interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and not finish_output():
            return UNREAD
        line, code = explain(error)
        if line is None:
            traceback.print_exception(error)
        else:
            print(f"error: {reword(line)}", file=sys.stderr)
        return code
    return 0
