"""Cells side by side, in processes beside this one, so that one that fails or is killed leaves the
others alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from fedrobust.experiment.old_names import rename_config
from fedrobust.reporting.filenames import MANIFEST
from fedrobust.runtime import resume
from fedrobust.studies.comparison.grid import Cell, config_digest
from fedrobust.studies.comparison.pool import Ended, Machine, Pool

CELLS = "cells"
COMMAND = (sys.executable, "-m", "fedrobust.studies.comparison.worker")
POLL_SECONDS = 0.2


class Watcher(Protocol):
    """Observer of the cells; `reason` is None where the cell succeeded."""

    def started(self, cell: Cell) -> None: ...

    def ended(self, cell: Cell, reason: str | None, seconds: float) -> None: ...

    def tick(self) -> None: ...

    def stopping(self, running: int) -> None: ...


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
    pictures: bool = False,
    command: Sequence[str] = COMMAND,
) -> dict[str, str]:
    """Run the cells into folder/<cell>; gives the reasons of those that failed, by folder.

    families: cells that share a clean twin; the first of a family makes it, the others wait for
    that, so that it is made once. pictures: whether pages show images. Any interruption stops
    all processes, which leave their checkpoints behind.
    """
    waiting, failed, made = list(cells), dict[str, str](), set[str]()
    pool = Pool(folder, machine, command, pictures=pictures)
    try:
        while waiting or pool.cells:
            busy = {families[one.folder] for one in pool.cells} - made
            ready = next((cell for cell in waiting if families[cell.folder] not in busy), None)
            if ready is not None and pool.has_room:
                waiting.remove(ready)
                watch.started(ready)
                pool.start(ready)
                continue
            for ended in pool.wait(POLL_SECONDS):
                made.add(families[ended.cell.folder])
                if (reason := _reason(ended)) is not None:
                    failed[ended.cell.folder] = reason
                watch.ended(ended.cell, reason, ended.seconds)
            watch.tick()
    finally:
        if pool.cells:
            watch.stopping(len(pool.cells))
        pool.stop(POLL_SECONDS)
    return failed


def _reason(ended: Ended) -> str | None:
    """Reason of a cell's failure; None: its result is there."""
    if ended.reason is None and not is_cell_finished(ended.log.parent, ended.cell):
        return f"ended without a report; see {ended.log}"
    return ended.reason
