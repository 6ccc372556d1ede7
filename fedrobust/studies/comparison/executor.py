"""Cells side by side, each in a process of its own, so that one that fails or is killed leaves the
others alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from fedrobust.errors import exit_reason
from fedrobust.experiment.old_names import rename_config
from fedrobust.experiment.settings import to_json
from fedrobust.reporting.filenames import MANIFEST
from fedrobust.runtime import resume
from fedrobust.studies.comparison.grid import Cell, config_digest

CELLS, LOG = "cells", "run.log"
COMMAND = (sys.executable, "-m", "fedrobust.studies.comparison.worker")
POLL_SECONDS, GRACE_SECONDS = 0.2, 30.0


class Watcher(Protocol):
    """Observer of the cells; `reason` is None where the cell succeeded."""

    def started(self, cell: Cell) -> None: ...

    def ended(self, cell: Cell, reason: str | None, seconds: float) -> None: ...

    def tick(self) -> None: ...

    def stopping(self, running: int) -> None: ...


@dataclass(frozen=True)
class Machine:
    """Number of processes at once, and their devices. gpus: the names of the GPUs over which the
    processes are dealt; empty: as each finds them."""

    parallel: int
    threads: int
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Running:
    cell: Cell
    slot: int
    process: subprocess.Popen[bytes]
    log: Path
    begins: int  # where in the log
    since: float

    def reason(self) -> str | None:
        """Reason of its failure, in one line; None: it did not fail."""
        code = self.process.returncode
        if code == 0:
            return (
                None
                if is_cell_finished(self.log.parent, self.cell)
                else f"ended without a report; see {self.log}"
            )
        if code < 0:
            return f"{exit_reason(code)}; see {self.log}"
        lines = self.log.read_bytes()[self.begins :].decode("utf-8", "replace").split("\n")
        errors = [line for line in lines if line.startswith("error: ")]
        return (
            errors[-1].removeprefix("error: ") if errors else f"{exit_reason(code)}; see {self.log}"
        )


def is_cell_finished(folder: Path, cell: Cell) -> bool:
    """Whether this folder holds the whole result of this very configuration."""
    return _written_digest(folder) == cell.digest and resume.is_finished(folder)


def _written_digest(folder: Path) -> str | None:
    """Digest of the configuration in a cell's folder, with today's names of settings; None without
    one."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config_digest(rename_config(manifest["config"]))


def rename_older_cells(folder: Path, cells: Sequence[Cell]) -> None:
    """Folders of the same cells that an older version has begun: their names end in the digest of
    the configuration with old names of settings, and get that of today.

    folder: holds the cells' folders.
    """
    for cell in cells:
        if not (folder / cell.folder).exists():
            older = folder.glob(f"{cell.label}-*")
            same = next((one for one in older if _written_digest(one) == cell.digest), None)
            if same is not None:
                same.rename(folder / cell.folder)


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    families: Mapping[str, str],
    machine: Machine,
    watch: Watcher,
    *,
    command: Sequence[str] = COMMAND,
) -> dict[str, str]:
    """Run the cells into folder/<cell>; gives the reasons of those that failed, by folder.

    families: cells that share a clean twin; the first of a family makes it, the others wait for
    that, so that it is made once. Any interruption stops all processes, which leave their
    checkpoints behind.
    """
    waiting, running, failed, made = list(cells), list[_Running](), dict[str, str](), set[str]()
    try:
        while waiting or running:
            busy = {families[one.cell.folder] for one in running} - made
            free = sorted(set(range(machine.parallel)) - {one.slot for one in running})
            ready = next((cell for cell in waiting if families[cell.folder] not in busy), None)
            if free and ready is not None:
                waiting.remove(ready)
                watch.started(ready)
                running.append(_start(ready, folder / ready.folder, free[0], machine, command))
                continue
            time.sleep(POLL_SECONDS)
            watch.tick()
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                _close(one.process.stdin)
                made.add(families[one.cell.folder])
                if (reason := one.reason()) is not None:
                    failed[one.cell.folder] = reason
                watch.ended(one.cell, reason, time.monotonic() - one.since)
    finally:
        if running:
            watch.stopping(len(running))
            _stop(running)
    return failed


def _start(
    cell: Cell, folder: Path, slot: int, machine: Machine, command: Sequence[str]
) -> _Running:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / LOG
    threads = {name: str(machine.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    gpu = {"CUDA_VISIBLE_DEVICES": machine.gpus[slot % len(machine.gpus)]} if machine.gpus else {}
    with log.open("ab") as file:
        begins = file.tell()
        process = subprocess.Popen(
            [*command, str(folder)],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads, **gpu},
            start_new_session=True,  # Ctrl-C reaches this process only, which then stops the others
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it is dead already, and its exit code will say why
        process.stdin.write(to_json(cell.config).encode() + b"\n")
        process.stdin.flush()
    return _Running(cell, slot, process, log, begins, time.monotonic())


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


def _stop(running: Sequence[_Running]) -> None:
    """The end of their input asks them to stop; those that have not by then, or at a second Ctrl-C,
    are killed."""
    for one in running:
        _close(one.process.stdin)
    limit = time.monotonic() + GRACE_SECONDS
    try:
        while any(one.process.poll() is None for one in running) and time.monotonic() < limit:
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        pass
    for one in running:
        if one.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()
