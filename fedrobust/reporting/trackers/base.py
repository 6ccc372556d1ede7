"""What a tracker is told of a run, and what it has to offer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from fedrobust.errors import ConfigError

Value = str | int | float | bool
ADDRESS = re.compile(r"https?://[^/@\s?#]+(/[^@\s?#]*)?")


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as its tracker gets to know it.

    Attributes:
        folder: the run's output folder.
        title: its name, unless the user chose one.
        settings: the whole configuration, {"client.epochs": 2, ...}; null and lists as text.
        identity: what `TrackerRun.identity` was before the run was stopped; empty of a new run.
        entries: rounds that the tracker has got already.
    """

    folder: Path
    title: str
    settings: Mapping[str, Value]
    identity: str = ""
    entries: int = 0


class TrackerRun(Protocol):
    """A run in the tracker. Whatever its methods raise ends the tracking, not the run."""

    @property
    def identity(self) -> str:
        """By which the tracker finds the run again when it is resumed."""

    def log_values(self, run: str, number: int, values: Mapping[str, float]) -> None:
        """The values of one round of the run or its clean twin, which are kept at once."""

    def log_result(self, values: Mapping[str, float]) -> None:
        """The final report's numbers."""

    def close(self, finished: bool) -> None:
        """No more will come. finished: whether the run came to its end."""


@dataclass(frozen=True, slots=True)
class Tracker:
    """A chosen tracker; open: begins a run in it, or goes on with one; None: there is none."""

    name: str
    open: Callable[[TrackedRun], TrackerRun] | None = None


NO_TRACKER = Tracker("none")


def check_packages(name: str, *modules: str) -> None:
    """Whether a tracker's modules are installed. Raises ConfigError."""
    for module in modules:
        if find_spec(module) is None:
            raise ConfigError(
                f"tracker={name}: needs the package {module}; pip install 'fedrobust[{name}]'"
            )


def check_address(address: str | None, keys: str) -> None:
    """Whether this is an address that may stand in manifest.json.

    Args:
        address: of a server, or None.
        keys: where the name and the password for it belong.

    Raises:
        ConfigError: it is none, or holds a password; the line does not repeat it.
    """
    if address is not None and not ADDRESS.fullmatch(address):
        raise ConfigError(
            "tracker.address: must be http://host or https://host without a name, a password or a "
            f"query, which would stand in manifest.json; {keys}"
        )


def chosen_folder(path: str | None, folder: Path) -> Path:
    """The folder a user chose, or the run's own."""
    return folder if path is None else Path(path).expanduser()
