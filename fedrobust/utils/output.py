"""Standard output that nobody reads any more, as after `| head`."""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress

UNREAD = 141  # exit code of a program that the signal SIGPIPE ends, as shells say it


def finish_output() -> bool:
    """Write what is left of standard output. Returns whether somebody reads it; if not, what was
    left and what follows is dropped, also by Python at the end of the process."""
    if _is_read():
        return True
    drop_output()
    return False


def drop_output() -> None:
    """From here on standard output is written to nowhere."""
    with suppress(OSError, ValueError):  # standard output that is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _is_read() -> bool:
    try:
        sys.stdout.flush()
        number = sys.stdout.fileno()
    except BrokenPipeError:
        return False
    except (OSError, ValueError, AttributeError):  # no file, closed, or none at all (pythonw)
        return True
    if not hasattr(select, "poll"):  # Windows
        return True
    asked = select.poll()  # without Python's buffers nothing is left to be flushed
    asked.register(number, select.POLLOUT)
    return not any(found & select.POLLERR for _, found in asked.poll(0))
