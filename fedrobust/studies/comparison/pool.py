"""Processes that run cells one after the other, so that what a process costs before its first run
is paid once for many cells. One that fails, hangs or is killed costs the cell that it runs, no
other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from fedrobust.errors import exit_reason
from fedrobust.studies.comparison.grid import Cell

LOG = "run.log"
BEGUN, LAST = "begun", "last"  # what a process says of a cell, see `worker`
GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Machine:
    """Number of processes at once, and their devices. gpus: the names of the GPUs over which the
    processes are dealt; empty: as each finds them. cell_seconds: the most that a cell may take;
    None: as long as it wants."""

    parallel: int
    threads: int
    gpus: tuple[str, ...] = ()
    cell_seconds: float | None = None


@dataclass(frozen=True)
class Ended:
    """A cell that has ended, after so many seconds. reason: of its failure; None: its process says
    that it finished it. log: what it printed."""

    cell: Cell
    reason: str | None
    seconds: float
    log: Path


@dataclass(frozen=True)
class _Task:
    """A cell that a process runs. begins: where in the log; since: on the clock."""

    cell: Cell
    log: Path
    begins: int
    since: float


class _Process:
    """A process of the pool. task: what it runs, None while it waits; new: it has finished nothing
    so far; begun: it has said that it runs its task; leaving: it takes no more, and must have ended
    by this time of the clock."""

    def __init__(
        self, slot: int, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.slot, self.new, self.begun = slot, True, False
        self.leaving: float | None = None
        self.task: _Task | None = None
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,  # until it has read its first order
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C reaches the command only, which then stops these
            )
        self._said = b""

    @property
    def answers(self) -> int:
        """File descriptor that can be read when it has answered or ended."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    @property
    def running(self) -> bool:
        """Whether the process still exists."""
        return self._process.poll() is None

    def give(self, task: _Task, order: Mapping[str, Any]) -> bool:
        """Let it run a cell. Returns whether it could be told."""
        self.task, self.begun = task, False
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(json.dumps(order).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError:
            return False
        return True

    def listen(self) -> Iterator[Mapping[str, bool]]:
        """What it has said. Nothing more comes once it has ended, which `running` says then."""
        piece = os.read(self.answers, 1 << 16)
        if not piece:
            self._wait(GRACE_SECONDS)
        *lines, self._said = (self._said + piece).split(b"\n")
        for line in lines:
            yield json.loads(line)

    def reason(self) -> str:
        """Why the cell failed in the middle of which the process ended, in one line."""
        code, task = self._process.wait(), self.task
        assert task is not None
        elsewhere = f"see {task.log}"
        if code == 0:
            return f"ended without a report; {elsewhere}"
        if code < 0:
            return f"{exit_reason(code)}; {elsewhere}"
        lines = task.log.read_bytes()[task.begins :].decode("utf-8", "replace").split("\n")
        errors = [line for line in lines if line.startswith("error: ")]
        if errors:
            return errors[-1].removeprefix("error: ")
        return f"{exit_reason(code)}; {elsewhere}"

    def ask_to_stop(self) -> None:
        """The end of its input ends it."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def kill(self) -> None:
        """End it, with all that it has started."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """Give back its pipes."""
        self.ask_to_stop()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _wait(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()


class Pool:
    """The processes of a grid. folder: where the cells' folders are; command: begins a worker, the
    folder follows."""

    def __init__(
        self, folder: Path, machine: Machine, command: Sequence[str], *, pictures: bool
    ) -> None:
        self._folder, self._machine, self._command = folder, machine, (*command, str(folder))
        self._pictures = pictures
        self._processes: list[_Process] = []

    @property
    def cells(self) -> list[Cell]:
        """Those that run now."""
        return [one.task.cell for one in self._processes if one.task is not None]

    @property
    def has_room(self) -> bool:
        """Whether another cell can start now."""
        return self._idle() is not None or len(self._processes) < self._machine.parallel

    def start(self, cell: Cell) -> None:
        """Run a cell in a process that waits, else in a new one."""
        order = {
            "cell": cell.folder,
            "config": cell.config,
            "pictures": self._pictures,
            "path": sys.path,  # a plug-in may lie where only this process looks
        }
        place = self._folder / cell.folder
        place.mkdir(parents=True, exist_ok=True)
        log = place / LOG
        task = _Task(cell, log, log.stat().st_size if log.exists() else 0, time.monotonic())
        while (found := self._idle()) is not None:
            if found.give(task, order):
                return
            self._remove(found)  # it was killed while it waited
        for one in list(self._processes):
            if one.task is None and one.leaving is None and not one.running:  # so was this one
                self._remove(one)
        new = self._new_process(log)
        self._processes.append(new)
        new.give(task, order)  # if it is dead already, its exit code will say why

    def wait(self, seconds: float) -> list[Ended]:
        """The cells that have ended, at the latest after so many seconds."""
        if not self._processes:
            return []
        ready = wait([one.answers for one in self._processes], seconds)
        for one in self._processes:
            if one.leaving is not None and time.monotonic() > one.leaving:
                one.kill()
        ended = [
            cell
            for one in list(self._processes)
            if one.answers in ready
            for cell in self._take(one)
        ]
        return [*ended, *self._end_overdue()]

    def stop(self, poll: float) -> None:
        """Ask all processes to end; those that have not in time, or at a Ctrl-C, are killed."""
        for one in self._processes:
            one.ask_to_stop()
        limit = time.monotonic() + GRACE_SECONDS
        try:
            while any(one.running for one in self._processes) and time.monotonic() < limit:
                time.sleep(poll)
        except KeyboardInterrupt:
            pass
        for one in list(self._processes):
            one.kill()
            self._remove(one)

    def _take(self, one: _Process) -> Iterator[Ended]:
        for said in one.listen():
            one.begun = one.begun or BEGUN in said
            if LAST not in said:
                continue
            if one.task is not None:
                yield _ended(one.task, None)
            one.task, one.new = None, False
            if said[LAST]:
                one.leaving = time.monotonic() + GRACE_SECONDS
                one.ask_to_stop()
        if not one.running:
            self._remove(one)
            if one.task is not None and (one.begun or one.new):
                yield _ended(one.task, one.reason())
            elif one.task is not None:  # it was killed before it had read the order
                self.start(one.task.cell)

    def _end_overdue(self) -> Iterator[Ended]:
        """Kill the processes of cells that have taken too long, as one that hangs does."""
        limit = self._machine.cell_seconds
        for one in list(self._processes):
            task = one.task
            if limit is None or task is None or time.monotonic() <= task.since + limit:
                continue
            one.kill()
            self._remove(one)
            yield _ended(
                task,
                f"cell_seconds={limit:g}: it was stopped after so long; see {task.log}, and "
                "raise it if the cell only needs longer",
            )

    def _idle(self) -> _Process | None:
        waiting = [one for one in self._processes if one.task is None and one.leaving is None]
        return next((one for one in waiting if one.running), None)

    def _remove(self, one: _Process) -> None:
        one.close()
        self._processes.remove(one)

    def _new_process(self, log: Path) -> _Process:
        machine = self._machine
        slot = min(set(range(machine.parallel)) - {one.slot for one in self._processes})
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(machine.threads))
        gpus = machine.gpus
        gpu = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
        return _Process(slot, self._command, {**threads, **gpu}, log)


def _ended(task: _Task, reason: str | None) -> Ended:
    return Ended(task.cell, reason, time.monotonic() - task.since, task.log)
