"""Progress of a grid on the screen: bars on a terminal, a line per finished cell anywhere else."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import TaskID

from fedrobust.reporting.console import LiveScreen
from fedrobust.reporting.console.bars import text_column
from fedrobust.reporting.records import ROUND_FILES
from fedrobust.reporting.text import format_duration
from fedrobust.studies.comparison.grid import Cell
from fedrobust.studies.comparison.pool import LOG

LOOK_SECONDS = 2.0  # between two looks at the files of the running cells
# a cell is slow when it has taken so many times as long as half of the finished ones, and so long
SLOW_TIMES, SLOW_SECONDS = 10, 60.0


class Screen(LiveScreen):
    """An `executor.Watcher`. total: cells to run; folder: where their folders are. Use it with
    `with`."""

    def __init__(self, total: int, folder: Path, console: Console) -> None:
        super().__init__(console, text_column("{task.fields[note]}"), refreshes=2)
        self._total, self._folder = total, folder
        self._done, self._failed, self._began, self._looked = 0, 0, time.monotonic(), 0.0
        self._whole = self._bars.add_task("cells", total=total, note="")
        self._tasks: dict[str, tuple[Cell, TaskID]] = {}
        self._since: dict[str, float] = {}  # of the running cells that were not found slow so far
        self._seconds: list[float] = []  # of those that were done

    def started(self, cell: Cell) -> None:
        self._since[cell.folder] = time.monotonic()
        contaminated = bool(cell.poisoned or cell.settings.noisy)
        rounds = cell.settings.rounds * (1 + contaminated)  # those of the clean twin too
        self._tasks[cell.folder] = (
            cell,
            self._bars.add_task(f"  {cell}", total=rounds, note="rounds"),
        )

    def ended(self, cell: Cell, reason: str | None, seconds: float) -> None:
        self._bars.remove_task(self._tasks.pop(cell.folder)[1])
        self._since.pop(cell.folder, None)
        self._done += 1
        self._seconds += [seconds] if reason is None else []
        self._failed += reason is not None
        left = self._left()
        failed = f", {self._failed} failed" if self._failed else ""
        self._bars.update(self._whole, completed=self._done, note=left + failed)
        outcome = "done" if reason is None else f"failed: {reason}"
        line = f"{self._done}/{self._total} {cell}: {outcome} ({format_duration(seconds)}; {left})"
        level = logging.INFO if reason is None else logging.WARNING
        self._print(line, "" if reason is None else "bold red", level)

    def tick(self) -> None:
        now = time.monotonic()
        self._say_slow(now)
        if self._live is None or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for cell, task in self._tasks.values():
            self._bars.update(
                task,
                completed=sum(
                    _rounds(self._folder / cell.folder / name) for name in ROUND_FILES.values()
                ),
            )

    def stopping(self, running: int) -> None:
        text = (
            f"stopping {running} running cells, which can resume from their last "
            "checkpoints; Ctrl-C again ends them at once"
        )
        self._print(text)

    def _say_slow(self, now: float) -> None:
        """A line, once, for each cell that may hang."""
        if not self._seconds:
            return
        usual = median(self._seconds)
        limit = max(SLOW_TIMES * usual, SLOW_SECONDS)
        slow = [folder for folder, since in self._since.items() if now - since > limit]
        for folder in slow:
            lasted = format_duration(now - self._since.pop(folder))
            self._print(
                f"{self._tasks[folder][0]}: runs for {lasted} so far, the median of the finished "
                f"cells is {format_duration(usual)}; see {self._folder / folder / LOG}; "
                "cell_seconds=... ends cells that hang",
                "yellow",
            )

    def _left(self) -> str:
        """From the mean time of a cell so far; what runs side by side is in it."""
        remaining = self._total - self._done
        if not remaining:
            return "the last"
        seconds = (time.monotonic() - self._began) / self._done * remaining
        return f"about {format_duration(seconds)} left"


def _rounds(path: Path) -> int:
    """Rounds in a rounds file; its first line is the untrained model."""
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0
