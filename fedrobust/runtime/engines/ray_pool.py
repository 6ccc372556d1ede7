"""The worker processes of a grid: which of them are up, and the replacement of lost ones as far as
resources allow."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import ray

from fedrobust.errors import RunError

# for a worker to import the app; on a cold, busy machine torch alone takes half a minute
START_SECONDS = 180.0
STARTS = 3  # failed starts in a row after which a worker's place is given up


@dataclass(slots=True)
class WorkerSlot:
    """The place of one worker. promise: of its being ready, awaited before it gets anything;
    worker: None once given up; crash: the file that holds Python's last words should a signal such
    as SIGSEGV end the worker."""

    worker: Any
    promise: Any
    crash: Path
    up: bool = False
    failed_starts: int = 0


@final
class WorkerPool:
    """Workers by number, each started by `spawn`. A replacement without resources starts when
    there is some."""

    def __init__(self, spawn: Callable[[str], Any]) -> None:
        self._spawn = spawn
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._spawned = 0
        self._slots: list[WorkerSlot] = []
        self._last_up = 0.0
        self._cause = ""

    def __len__(self) -> int:
        return len(self._slots)

    def open(self, number: int) -> None:
        """Start that many workers and wait until all are ready. Raises RunError, in one line, when
        one cannot start."""
        self._folder = tempfile.TemporaryDirectory(
            prefix="fedrobust-workers-", ignore_cleanup_errors=True
        )
        self._slots = [self._new() for _ in range(number)]
        try:
            ray.get([slot.promise for slot in self._slots], timeout=START_SECONDS)
        except ray.exceptions.GetTimeoutError as error:
            raise RunError(
                f"the workers did not start within {START_SECONDS:g} s; does each "
                "of them fit on one machine?"
            ) from error
        except ray.exceptions.RayError as error:
            raise RunError(f"a worker could not start: {_last_line(error)}") from error
        for slot in self._slots:
            slot.promise, slot.up = None, True

    def close(self) -> None:
        for slot in self._slots:
            if slot.worker is not None:
                ray.kill(slot.worker)
        self._slots = []
        if self._folder is not None:
            self._folder.cleanup()

    def worker(self, number: int) -> Any:
        return self._slots[number].worker

    @property
    def usable(self) -> list[int]:
        """The numbers of the workers that are up, busy ones among them."""
        return [
            number for number, slot in enumerate(self._slots) if slot.up and slot.promise is None
        ]

    @property
    def promises(self) -> dict[Any, int]:
        """Pending answers of workers that start or are being checked: `arrived` takes their
        numbers."""
        return {
            slot.promise: number
            for number, slot in enumerate(self._slots)
            if slot.promise is not None
        }

    def check(self) -> None:
        """Ask every worker whether it still lives, so that one that died unused costs no client
        anything."""
        for slot in self._slots:
            if slot.up and slot.promise is None:
                slot.promise = slot.worker.ready.remote()

    def arrived(self, number: int) -> None:
        """A worker's promise is fulfilled or broken: it can be used, or is replaced, or given up
        after STARTS failures."""
        slot = self._slots[number]
        try:
            ray.get(slot.promise)
        except ray.exceptions.RayError as error:
            self._cause = _last_line(error)
            self.replace(number)
        else:
            slot.promise, slot.up, slot.failed_starts = None, True, 0

    def replace(self, number: int) -> None:
        """End a worker, if it still lives, and start another in its place."""
        slot = self._slots[number]
        ray.kill(slot.worker)
        failed_starts = 0 if slot.up else slot.failed_starts + 1
        if slot.up:
            self._last_up = time.monotonic()
        if failed_starts == STARTS:
            self._slots[number] = WorkerSlot(None, None, slot.crash)
        else:
            self._slots[number] = self._new(failed_starts)

    def _new(self, failed_starts: int = 0) -> WorkerSlot:
        assert self._folder is not None, "the pool is open"
        crash = Path(self._folder.name) / f"{self._spawned}.txt"
        self._spawned += 1
        worker = self._spawn(str(crash))
        return WorkerSlot(worker, worker.ready.remote(), crash, failed_starts=failed_starts)

    def crash(self, number: int) -> str | None:
        """The signal that ended a worker of this machine, in Python's words ("Segmentation fault");
        None without a message, as when it was killed from outside."""
        try:
            first = (
                self._slots[number]
                .crash.read_text(encoding="utf-8", errors="replace")
                .partition("\n")[0]
            )
        except OSError:
            return None
        return first.removeprefix("Fatal Python error: ").strip() or None

    def patience(self) -> float | None:
        """Seconds left for a first worker to come up; None while there is one. Raises
        RunError when they are over."""
        if any(slot.up for slot in self._slots):
            return None
        if all(slot.worker is None for slot in self._slots):
            raise RunError(f"no worker is left and new ones do not start: {self._cause}")
        left = START_SECONDS - (time.monotonic() - self._last_up)
        if left <= 0:
            raise RunError(
                "no worker is left and no new one could start within "
                f"{START_SECONDS:g} s; free a CPU or GPU or add a machine"
            )
        return left


def _last_line(error: Exception) -> str:
    """The worker's own error in the chain of errors that Ray prints."""
    return str(error).strip().split("\n")[-1]
