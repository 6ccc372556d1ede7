"""Event files of TensorBoard."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

from fedrobust.reporting.trackers.base import (
    TrackedRun,
    Tracker,
    Value,
    check_packages,
    chosen_folder,
)
from fedrobust.utils.validation import check_settings

VERSION = "brain.Event:2"  # of the file format
FOLDER = "tensorboard"


@check_settings("tracker")
def tensorboard(path: str | None = None, run_name: str | None = None) -> Tracker:
    """Scalars after every round, the settings as hyperparameters and text, the result at the end.
    Needs the extra `tensorboard`.

    Args:
        path: a folder in which each run gets one of its own; null: tensorboard/ in the run's
            folder.
        run_name: of the run's folder below path; null: strategy, contamination and seed.

    Returns:
        The tracker.

    Raises:
        ConfigError: tensorboard is not installed.

    Reference:
        https://www.tensorflow.org/tensorboard
    """
    check_packages("tensorboard", "tensorboard")

    def open_run(tracked: TrackedRun) -> EventFile:
        if path is None:
            place = tracked.folder / FOLDER
        else:
            base = chosen_folder(path, tracked.folder)
            place = base / (tracked.identity or _free_name(base, run_name or tracked.title))
        return EventFile(place, {} if tracked.identity else tracked.settings)

    return Tracker("tensorboard", open_run)


def _free_name(base: Path, title: str) -> str:
    """A name that no other run has, in characters that every file system takes."""
    plain = re.sub(r"[^\w.-]+", "_", title).strip("._") or "run"
    name, number = plain, 1
    while (base / name).exists():
        name, number = f"{plain}-{number}", number + 1
    return name


class EventFile:
    """One more event file in a folder, to which each process adds its own.

    Written here and not by TensorBoard's own writer, whose files name the machine and whose errors
    come late, from a thread.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Value]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.identity = folder.name
        self._event = Event
        folder.mkdir(parents=True, exist_ok=True)
        # readers go through files in the order of their names
        path = folder / f"events.out.tfevents.{time.time_ns():020d}.fedrobust"
        self._file = path.open("ab")
        self._writer = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version=VERSION))
        if settings:
            self._log_settings(settings)
        self._writer.flush()

    def log_values(self, run: str, number: int, values: Mapping[str, float]) -> None:
        self._log(number, values)

    def log_result(self, values: Mapping[str, float]) -> None:
        self._log(0, values)

    def close(self, finished: bool) -> None:
        self._file.close()

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        event = self._event(wall_time=time.time(), step=step)
        for name, value in values.items():
            event.summary.value.add(tag=name, simple_value=value)
        self._write(event)
        self._writer.flush()

    def _log_settings(self, settings: Mapping[str, Value]) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.plugins.text.summary_v2 import text_pb

        rows = "".join(f"| `{key}` | `{value}` |\n" for key, value in settings.items())
        table = f"| setting | value |\n| --- | --- |\n{rows}"
        for summary in (hparams_pb(dict(settings)), text_pb("settings", table)):
            self._write(self._event(wall_time=time.time(), summary=summary))

    def _write(self, event: object) -> None:
        self._writer.write(event.SerializeToString())  # type: ignore[attr-defined]
