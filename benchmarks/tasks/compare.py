"""Cells of a small comparison one after the other in this process, as a worker of `compare` runs
them, each with what it computes measured apart."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fedrobust.runtime import simulation
from fedrobust.runtime.server.run import run_experiment
from fedrobust.studies.comparison.grid import Cell, cells, read_grid
from fedrobust.studies.comparison.isolation import NewProcess
from fedrobust.studies.comparison.worker import run as run_cell

# one round of three hospitals, of which one flips labels
GRID = ("experiment=smoke", "strategies=[fedavg]", "contaminations=[label_flip]", "poisoned=[1]")


def run(given: Mapping[str, Any], mark: Callable[[int], None]) -> dict[str, Any]:
    """given: folder, first (seed of the first cell), cells, pictures, threads. CPU seconds of each
    cell: of all of it, and of its rounds, twin and evaluation alone."""
    seeds = list(range(given["first"], given["first"] + given["cells"]))
    wanted = cells(read_grid([*GRID, f"seeds={seeds}"]))
    new, found = NewProcess(), []
    for number, cell in enumerate(wanted):
        mark(number)
        found.append(_measure(cell, new, Path(given["folder"]), given["pictures"]))
    return {"cells": found}


def _measure(cell: Cell, new: NewProcess, folder: Path, pictures: bool) -> dict[str, float]:
    computed: list[float] = []

    def timed(*words: Any, **more: Any) -> Any:
        began = time.process_time()
        try:
            return run_experiment(*words, **more)
        finally:
            computed.append(time.process_time() - began)

    place, began = folder / cell.folder, time.process_time()
    place.mkdir(parents=True)
    with (  # what a worker does for each cell, its output into the log included
        patch.object(simulation, "run_experiment", timed),
        (place / "run.log").open("w") as log,
        redirect_stdout(log),
        new.again(),
    ):
        run_cell(cell.config, place, pictures=pictures)
    print(cell, file=sys.stderr)
    return {"cpu": time.process_time() - began, "computed": sum(computed)}
