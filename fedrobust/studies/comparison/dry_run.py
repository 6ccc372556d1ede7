"""What a comparison would run, how long it would take and how much memory, without running a
cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from fedrobust.experiment import build, settings
from fedrobust.reporting.text import format_duration
from fedrobust.runtime.dry_run import (
    TIMED,
    EnginePlan,
    RunPlan,
    check_memory,
    format_bytes,
    measure_speed,
    plan_engine,
    run_lines,
)
from fedrobust.runtime.server import clean_twin
from fedrobust.runtime.server.loop import build_server_context
from fedrobust.studies.comparison.executor import CELLS, is_cell_finished
from fedrobust.studies.comparison.grid import Cell, Grid, cells
from fedrobust.studies.comparison.pool import Machine
from fedrobust.studies.comparison.preflight import CheckedGrid
from fedrobust.studies.comparison.run import check_all, machine_for
from fedrobust.utils.counting import format_count


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """What a comparison would run.

    Attributes:
        grid: as asked for.
        cells: all of them.
        waiting: those that are not finished.
        twins: clean twins that would be trained.
        machine: how many cells run side by side.
        first: the plan of the first waiting cell; None where all are finished.
        seconds: estimated, of all.
    """

    grid: Grid
    cells: Sequence[Cell]
    waiting: Sequence[Cell]
    twins: int
    machine: Machine
    first: RunPlan | None
    seconds: float

    @property
    def memory(self) -> int | None:
        """Estimated bytes of all cells that run side by side; None where it is not known."""
        one = None if self.first is None else self.first.memory
        return None if one is None else one * min(self.machine.parallel, len(self.waiting))


def plan_comparison(grid: Grid, screen: Console) -> ComparisonPlan:
    """Check every cell as for a run, and measure a training step of each kind of cell.

    Raises ConfigError or DataError for what cannot be run.
    """
    wanted = cells(grid)
    checked = check_all(wanted, grid, screen)
    waiting = [
        cell for cell in wanted if not is_cell_finished(grid.out / CELLS / cell.folder, cell)
    ]
    machine = machine_for(grid, wanted[0])
    twins = _twins_to_train(waiting, checked)
    plans: dict[str, RunPlan] = {}
    for cell in waiting:
        if _kind(cell) not in plans:
            plans[_kind(cell)] = _plan_cell(cell)
    seconds = {cell.folder: plans[_kind(cell)].seconds for cell in waiting}
    owners = {checked.families[cell.folder]: cell.folder for cell in waiting}
    total = sum(seconds.values()) + sum(seconds[owners[family]] for family in twins)
    found = ComparisonPlan(
        grid,
        wanted,
        waiting,
        len(twins),
        machine,
        plans[_kind(waiting[0])] if waiting else None,
        total / max(1, min(machine.parallel, len(waiting))),
    )
    check_memory(found.memory)
    return found


def _kind(cell: Cell) -> str:
    """Cells of one kind cost the same: all but seed and contamination."""
    left_out = ("seed", "poisoned", "noisy", "contamination", "noise", "corruption")
    return settings.to_json({key: one for key, one in cell.config.items() if key not in left_out})


def _plan_cell(cell: Cell) -> RunPlan:
    server = build_server_context(build.build_experiment(cell.config))
    engine: EnginePlan = plan_engine(server)
    speed = measure_speed(server, engine.threads)
    return RunPlan(server, engine, speed, "once for all cells that share it", trains_twin=False)


def _twins_to_train(waiting: Sequence[Cell], checked: CheckedGrid) -> list[str]:
    """The clean twins, by the name that cells with the same one share, which are neither in the
    cache nor a cell themselves."""
    families = {checked.families[cell.folder] for cell in waiting}
    clean = {
        checked.families[cell.folder]
        for cell in waiting
        if not cell.poisoned and not cell.settings.noisy
    }
    folder = clean_twin.cache_folder()
    return sorted(one for one in families - clean if not (folder / f"{one}.safetensors").exists())


def comparison_lines(
    plan: ComparisonPlan, names: tuple[str, str] = ("rule", "attack")
) -> list[str]:
    """The plan in lines `what: how`. names: of what the grid's strategies and contaminations
    are."""
    grid, finished = plan.grid, len(plan.cells) - len(plan.waiting)
    lines = [
        f"cells: {len(plan.cells)} ({format_count(len(grid.strategies), names[0])}, "
        f"{format_count(len(grid.contaminations), names[1])}, poisoned "
        f"{_numbers(grid.poisoned)}, {format_count(len(grid.seeds), 'seed')}); {finished} finished",
        f"clean twins to be trained: {plan.twins}",
        f"side by side: {plan.machine.parallel}, of {format_count(plan.machine.threads, 'thread')}",
    ]
    if plan.first is not None:
        lines += [f"first cell: {plan.waiting[0]}"]
        lines += [f"  {line}" for line in run_lines(plan.first)]
    known = plan.memory is not None
    memory = f"about {format_bytes(plan.memory or 0)}, estimated" if known else "not known"
    lines += [f"time: about {format_duration(plan.seconds)}, {TIMED}", f"memory: {memory}"]
    return [*lines, f"folder: {grid.out}"]


def _numbers(poisoned: Sequence[int | tuple[int, ...]]) -> str:
    return ", ".join(str(one if isinstance(one, int) else len(one)) for one in poisoned)
