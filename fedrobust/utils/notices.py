"""What a command says beside its result: on the screen, and in the run.log of an output folder."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

# Of nothing else: a handler of the logger "fedrobust" would take from the screen what the package's
# other loggers say, a site's errors too.
LOGGER = logging.getLogger(__name__)
MOST_WAITING = 100
# lines of each command that is now executed, from before its log
_WAITING: list[deque[tuple[int, str]]] = []


def note(text: str, level: int = logging.WARNING) -> None:
    """Say a line on standard error, and log it."""
    print(text, file=sys.stderr)
    log(level, text)


def log(level: int, text: str) -> None:
    """Log a line that is shown elsewhere, or nowhere; before there is a log it waits for that of
    the command, outside a command it is in none."""
    if LOGGER.handlers:
        LOGGER.log(level, "%s", text)
    elif _WAITING:
        _WAITING[-1].append((level, text))


@contextmanager
def hold_lines() -> Iterator[None]:
    """Let lines that are logged inside wait until there is a log; those that no log took are
    dropped at the end. Also a decorator of what a command does."""
    _WAITING.append(deque(maxlen=MOST_WAITING))
    try:
        yield
    finally:
        _WAITING.pop()


def log_waiting_lines() -> None:
    """Log what has waited, now that there is a log."""
    for lines in _WAITING:
        while lines:
            log(*lines.popleft())
