"""run.log in an output folder: what was shown of a run, with the time of each line, and the
versions. Nothing is written before the run itself writes."""

from __future__ import annotations

import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedrobust.reporting.filenames import RUN_LOG
from fedrobust.utils import files
from fedrobust.utils.cli import explain
from fedrobust.utils.machine import version_line
from fedrobust.utils.notices import LOGGER, log, log_waiting_lines


class RunLog(logging.Handler):
    """Keeps lines until `start` names the folder, then appends each to its run.log.

    A line that cannot be written ends the log, not the run, and is said once.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(_HomelessFormatter())
        self._waiting: list[str] = []
        self._path: Path | None = None
        self._lost = False

    def start(self, folder: Path) -> None:
        """Write what waits into the folder's run.log, and from now on every line. Raises
        OSError."""
        if self._path is None:
            self._path = folder / RUN_LOG
            files.append(self._path, "".join(self._waiting))
            self._waiting.clear()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record) + "\n"
        if self._path is None:
            self._waiting.append(line)
        elif not self._lost:
            try:
                files.append(self._path, line)
            except OSError as error:
                self._lost = True
                text = f"{self._path}: {error.strerror}; the run continues without its log"
                print(text, file=sys.stderr)


class _HomelessFormatter(logging.Formatter):
    """UTC, level, text; the user's home folder is shown as "~"."""

    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime
        try:
            home = str(Path.home())
        except RuntimeError:
            home = ""
        self._home = home if len(home) > 1 else ""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text.replace(self._home, "~") if self._home else text


@contextmanager
def keep_log(what: str) -> Iterator[RunLog]:
    """A log of all that is said inside, with Python's warnings, how it ended and how long it took.

    Args:
        what: is done inside, for the first line.
    """
    handler, level, show = RunLog(), LOGGER.level, warnings.showwarning
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    started = time.monotonic()
    log(logging.INFO, f"{what}: {version_line()}")
    log_waiting_lines()
    warnings.showwarning = _log_and_show(show)
    try:
        yield handler
        log(logging.INFO, f"ended after {time.monotonic() - started:.1f} s")
    except BaseException as error:
        _log_end(error)
        raise
    finally:
        warnings.showwarning = show
        LOGGER.setLevel(level)
        LOGGER.removeHandler(handler)


def start_logs(folder: Path) -> None:
    """Let the logs that are kept now write into a folder's run.log. Raises OSError."""
    for handler in LOGGER.handlers:
        if isinstance(handler, RunLog):
            handler.start(folder)


def _log_and_show(show: Callable[..., None]) -> Callable[..., None]:
    def logged(message: Warning | str, category: type[Warning], *place: Any, **rest: Any) -> None:
        log(logging.WARNING, f"{category.__name__}: {message}")
        show(message, category, *place, **rest)

    return logged


def _log_end(error: BaseException) -> None:
    """How a run ended that did not finish."""
    if isinstance(error, KeyboardInterrupt):
        log(logging.WARNING, "interrupted")
        return
    line, _ = explain(error)
    log(logging.ERROR, line or "".join(traceback.format_exception(error)).rstrip())
