"""What can go wrong, by who can mend it. Apart from `types`, so that a command line can start without torch."""

from __future__ import annotations


class FedrobustError(Exception):
    """A problem that the user can mend: shown as one line, exit code 2."""


class ConfigError(FedrobustError):
    """A wrong setting; the message names the key, the value and the remedy."""


class DataError(FedrobustError):
    """Unusable input data; the message names the file."""


class RunError(FedrobustError):
    """A run that started and could not be finished (failed clients, no usable reply): exit code 1."""
