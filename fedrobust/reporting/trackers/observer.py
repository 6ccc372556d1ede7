"""An Observer that hands a run to a tracker, once, however often the run is stopped and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from fedrobust.errors import ConfigError
from fedrobust.reporting.filenames import TRACKER
from fedrobust.reporting.report import Report
from fedrobust.reporting.trackers.base import TrackedRun, Tracker, TrackerRun
from fedrobust.reporting.trackers.values import result_values, round_values
from fedrobust.types import RoundRecord
from fedrobust.utils.files import write_text
from fedrobust.utils.foreign_text import escape_text, split_lines


@dataclass
class Entries:
    """What a tracker has got of a run (tracker.json): by which it knows the run, and the last round
    of the run and of its clean twin."""

    identity: str = ""
    rounds: dict[str, int] = field(default_factory=dict)


def read_entries(folder: Path) -> Entries:
    """The entries of an earlier process; none where the file is missing or damaged."""
    try:
        found = json.loads((folder / TRACKER).read_text(encoding="utf-8"))
        identity, rounds = found["identity"], found["rounds"]
        if isinstance(identity, str) and all(type(one) is int for one in rounds.values()):
            return Entries(identity, dict(rounds))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return Entries()


class TrackerObserver:
    """Hands rounds and the result to a tracker; use it as a context manager.

    A tracker that fails is left alone from then on, which the screen says once: the run goes on. A
    round that the tracker has already got is not given again, also where a resumed run does it
    again; one that it missed is given when the run is resumed.

    Args:
        tracker: the chosen one.
        tracked: what it is to know of the run.
        say: puts a line on the screen.
        resumed: whether the run is taken up again: a tracker that cannot be opened is then left
            alone, too.
    """

    def __init__(
        self, tracker: Tracker, tracked: TrackedRun, say: Callable[[str], None], resumed: bool
    ) -> None:
        self._tracker, self._tracked, self._say = tracker, tracked, say
        self._resumed = resumed
        self._entries = read_entries(tracked.folder) if resumed else Entries()
        self._run: TrackerRun | None = None
        self._finished = False

    def __enter__(self) -> Self:
        if self._tracker.open is None:
            return self
        entries = sum(last + 1 for last in self._entries.rounds.values())
        known = replace(self._tracked, identity=self._entries.identity, entries=entries)
        try:
            self._run = self._tracker.open(known)
        except Exception as error:  # whatever a foreign library raises
            if not self._resumed:
                raise ConfigError(
                    f"tracker={self._tracker.name}: cannot be opened ({_reason(error)}); mend it "
                    "or leave the tracker out"
                ) from error
            self._give_up(error)
            return self
        self._entries.identity = self._run.identity
        return self

    def __exit__(self, *_: object) -> None:
        self._attempt(lambda run: run.close(self._finished))

    def run_started(self, run: str, rounds: int, num_clients: int) -> None:
        """Nothing to hand over yet."""

    def round_started(self, run: str, number: int) -> None:
        """Nothing to hand over yet."""

    def client_done(self, run: str, stage: str, client: int, failed: bool) -> None:
        """Nothing to hand over yet."""

    def stage(self, run: str, text: str) -> None:
        """Nothing to hand over."""

    def round_finished(self, run: str, record: RoundRecord) -> None:
        if not record.metrics or record.number <= self._entries.rounds.get(run, -1):
            return  # a round that ended the run, or one that the tracker has

        def log(opened: TrackerRun) -> None:
            opened.log_values(run, record.number, round_values(run, record))
            self._entries.rounds[run] = record.number
            write_text(self._tracked.folder / TRACKER, json.dumps(asdict(self._entries)) + "\n")

        self._attempt(log)

    def rounds_restored(self, run: str, records: Sequence[RoundRecord]) -> None:
        for record in records:
            self.round_finished(run, record)

    def finish(self, report: Report) -> None:
        """Hand over the result of the finished run."""
        self._attempt(lambda run: run.log_result(result_values(report)))
        self._finished = True

    def _attempt(self, action: Callable[[TrackerRun], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # whatever a foreign library raises
            self._run = None
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._say(
            f"tracker={self._tracker.name}: failed ({_reason(error)}); the run goes on without it, "
            "its own files hold everything"
        )


def _reason(error: Exception) -> str:
    first = (split_lines(str(error)) or [""])[0]
    return escape_text(f"{type(error).__name__}: {first}", 200)
