"""Errors, by who can mend them. Apart from `types`, so that a command line can start without
torch."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 2000  # characters of a line about a setting


class FedrobustError(Exception):
    """A problem that the user can mend: shown as one line, exit code 2. code: by which a real site
    tells the server of it (`fedrobust.runtime.client.site_errors`)."""

    code = "failure"


class ConfigError(FedrobustError):
    """A wrong setting; the message names the key, the value and the remedy. A value may be as long
    as its sender pleases."""

    code = "settings"

    def __init__(self, text: str = "") -> None:
        super().__init__(
            text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
        )


class RefusalError(ConfigError):
    """What a hospital's own conditions forbid, whatever a run asks for.

    Args:
        code: which condition that is.
        text: the line.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class DataError(FedrobustError):
    """Unusable input data; the message names the file."""

    code = "data"


class RunError(FedrobustError):
    """A run that started and could not be finished (failed clients, no usable reply): exit code
    1."""

    code = "training"


def exit_reason(code: int) -> str:
    """The end of a process, in words.

    Args:
        code: its exit code as `subprocess` gives it, negative where a signal ended it.
    """
    if code >= 0:
        return f"ended with code {code}"
    number = -code
    name = (
        signal.Signals(number).name
        if number in {one.value for one in signal.Signals}
        else f"signal {number}"
    )
    if number in {
        one.value
        for one in (signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGBUS)
    }:
        return (
            f"killed by {name}, a crash in native code (torch, one of its "
            "libraries or a driver) and no fault of the settings"
        )
    return f"killed by {name}" + (", as happens when memory runs out" if name == "SIGKILL" else "")


@contextmanager
def found_in(source: object) -> Iterator[None]:
    """A DataError raised inside gets `source` (the file, folder or setting where the data came
    from) put before its message."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
