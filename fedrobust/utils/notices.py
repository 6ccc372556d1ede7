"""What a command says beside its result: on the screen, and through the logger "fedrobust" in the
run.log of an output folder."""

from __future__ import annotations

import logging
import sys
from collections import deque

LOGGER = logging.getLogger("fedrobust")
LOGGER.addHandler(logging.NullHandler())  # without a log of ours nothing goes to standard error
MOST_EARLIER = 100
# said before there was a log, for the first one
EARLIER: deque[tuple[int, str]] = deque(maxlen=MOST_EARLIER)


def note(text: str, level: int = logging.WARNING) -> None:
    """Say a line on standard error, and log it."""
    print(text, file=sys.stderr)
    log(level, text)


def log(level: int, text: str) -> None:
    """Log a line that is shown elsewhere, or nowhere; before there is a log it waits for one."""
    if any(not isinstance(one, logging.NullHandler) for one in LOGGER.handlers):
        LOGGER.log(level, "%s", text)
    else:
        EARLIER.append((level, text))
