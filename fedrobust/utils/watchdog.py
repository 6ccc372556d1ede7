"""End of a process that hangs and that no other process may be able to end."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 30 * 86400.0  # seconds


@contextmanager
def exit_after(seconds: float) -> Iterator[None]:
    """Code inside that takes longer than so many seconds (at most LONGEST) ends this process, with
    exit code 1 and a traceback of where it hangs on its standard error. It works without Python, so
    a call that never comes back is ended, too. Not for processes that do other things."""
    faulthandler.dump_traceback_later(
        min(max(seconds, 0.1), LONGEST), exit=True, file=sys.__stderr__ or 2
    )
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
