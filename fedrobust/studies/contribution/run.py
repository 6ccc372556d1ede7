"""A whole study: train the coalitions that are not finished, write what all of them say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Console
from torch import Tensor

from fedrobust.errors import ConfigError
from fedrobust.experiment import build
from fedrobust.reporting.console import RunConsole, print_last_line, print_line
from fedrobust.reporting.predictions import Predictions, read_predictions
from fedrobust.reporting.report import read_report
from fedrobust.runtime.server.loop import build_server_context, predict_global
from fedrobust.studies.comparison.executor import CELLS
from fedrobust.studies.comparison.grid import Cell
from fedrobust.studies.comparison.preflight import CheckedGrid
from fedrobust.studies.comparison.run import check_all, run_grid
from fedrobust.studies.contribution.figure import draw_contributions
from fedrobust.studies.contribution.page import contribution_page, contribution_table
from fedrobust.studies.contribution.plan import Plan
from fedrobust.studies.contribution.results import (
    SeedContributions,
    by_kind,
    contribution_frame,
    contributions,
)
from fedrobust.utils.counting import format_count
from fedrobust.utils.files import write_text

TABLE, PAGE, PICTURE = "contribution.csv", "contribution.md", "contribution.png"


def measure_contributions(plan: Plan, console: Console | None = None) -> Mapping[Cell, str]:
    """Run the plan into its folder; gives the trainings that failed, with their reasons. Nothing is
    written before it is checked.

    Raises ConfigError or DataError for what cannot be run, OSError where the folder cannot be
    written to, KeyboardInterrupt that names how to resume.
    """
    screen = RunConsole() if console is None else console
    _check_rule(plan)
    wanted = list(plan.cells.values())
    found = check_all([*_extremes(plan)], plan.grid, screen)
    checked = CheckedGrid({cell.folder: cell.folder for cell in wanted}, found.uses, {})
    return run_grid(
        wanted, checked, plan.grid, screen, lambda failed: _finish(plan, failed, screen)
    )


def _extremes(plan: Plan) -> Iterator[Cell]:
    """The whole federation and the smallest coalition of each seed: what can be refused in any
    coalition can be refused in one of them."""
    for seed in plan.grid.seeds:
        yield plan.cells[seed, plan.whole]
        smallest = min((mask for one, mask in plan.cells if one == seed), key=int.bit_count)
        if smallest != plan.whole:
            yield plan.cells[seed, smallest]


def _check_rule(plan: Plan) -> None:
    """A coalition may be a single hospital."""
    seed = plan.grid.seeds[0]
    strategy = build.build_experiment(plan.cells[seed, plan.whole].config).strategy
    if strategy.min_clients > 1:
        raise ConfigError(
            f"strategy={strategy.name}: needs at least "
            f"{format_count(strategy.min_clients, 'client')} a round, and "
            "contributions need trainings of single hospitals; choose a rule that takes one, e.g. "
            "strategy=fedavg"
        )


def _finish(plan: Plan, failed: Mapping[Cell, str], screen: Console) -> None:
    """Write what the seeds say of which all coalitions are finished."""
    print_line(screen, "reading the results, resampling")
    lost = {cell.seed for cell in failed}
    found = {seed: _read_seed(plan, seed) for seed in plan.grid.seeds if seed not in lost}
    if lost:
        print_line(
            screen, f"{format_count(len(lost), 'seed')} left out, since coalitions of it failed"
        )
    out = plan.grid.out
    frame = contribution_frame(found)
    write_text(out / TABLE, frame.to_csv(index=False, lineterminator="\n"))
    if not found:
        return
    kinds = by_kind(found, plan.grid.draws)
    picture = draw_contributions(frame, out / PICTURE)
    write_text(out / PAGE, contribution_page(plan, found, frame, kinds, [picture.name]))
    screen.print(contribution_table(kinds))
    print_last_line(screen, f"report: {out / PAGE}")


def _read_seed(plan: Plan, seed: int) -> SeedContributions:
    def folder(coalition: int) -> Predictions:
        return read_predictions(plan.grid.out / CELLS / plan.cells[seed, coalition].folder)

    whole = plan.cells[seed, plan.whole]
    report = read_report(plan.grid.out / CELLS / whole.folder)
    return contributions(plan, seed, report, folder, _untrained(whole))


def _untrained(cell: Cell) -> Tensor:
    """(N,) classes that the untrained model of a training gives the test images."""
    server = build_server_context(build.build_experiment(cell.config))
    server.inputs.prepare()
    return predict_global(server, server.initial, server.inputs.test).argmax(dim=1).cpu()
