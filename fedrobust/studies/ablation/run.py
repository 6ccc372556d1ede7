"""A whole ablation: train what is not finished, ask the clean models about every scenario, write
what all of it says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rich.console import Console

from fedrobust.contamination.base import keep_data
from fedrobust.errors import ConfigError
from fedrobust.experiment import build
from fedrobust.reporting.console import RunConsole, print_last_line, print_line, transient_bar
from fedrobust.studies.ablation import scenarios as judging
from fedrobust.studies.ablation.figure import draw_figure
from fedrobust.studies.ablation.markdown import page
from fedrobust.studies.ablation.plan import Plan
from fedrobust.studies.ablation.results import AblationResults, collect
from fedrobust.studies.ablation.screen import ablation_table
from fedrobust.studies.ablation.summary import Entry, make_summary
from fedrobust.studies.comparison.cell_results import long_table
from fedrobust.studies.comparison.dry_run import comparison_lines, plan_comparison
from fedrobust.studies.comparison.executor import CELLS
from fedrobust.studies.comparison.grid import Cell, cells
from fedrobust.studies.comparison.run import RESULTS, check_all, run_grid
from fedrobust.utils.counting import format_count
from fedrobust.utils.files import write_text

REPORT, PAGE, PICTURE = "ablation.json", "ablation.md", "drops.png"


def ablate(plan: Plan, console: Console | None = None) -> Mapping[Cell, str]:
    """Run the plan into its folder; gives the trainings that failed, with their reasons. Nothing is
    written before all is checked.

    Raises ConfigError or DataError for what cannot be run, OSError where the folder cannot be
    written to, KeyboardInterrupt that names how to resume.
    """
    screen = RunConsole() if console is None else console
    wanted = cells(plan.grid)
    checked = check_all(wanted, plan.grid, screen)
    _check(plan, wanted)
    return run_grid(
        wanted, checked, plan.grid, screen, lambda failed: _finish(plan, wanted, failed, screen)
    )


def dry_run_lines(plan: Plan, screen: Console) -> list[str]:
    """What an ablation would train and test, in lines `what: how`, without doing it.

    Raises as `ablate`.
    """
    found = plan_comparison(plan.grid, screen)
    _check(plan, found.cells)
    scenarios = format_count(len(plan.scenarios), "scenario")
    return [
        *comparison_lines(found, ("model", "poisoning")),
        f"scenarios: each model of clean trainings is then tested under {scenarios}, which is not "
        "in the time",
    ]


def _check(plan: Plan, wanted: Sequence[Cell]) -> None:
    """Checks beyond those of a comparison: every scenario can be built, and every poisoning changes
    data."""
    experiment = build.build_experiment(wanted[0].config)
    for scenario in plan.scenarios:
        if judging.build_contamination(experiment, scenario).data is keep_data:
            raise ConfigError(f"scenarios: {scenario.family} does nothing to images; take it out")
    for cell in wanted:
        if cell.poisoned and cell.seed == plan.grid.seeds[0]:
            poisoning = build.build_experiment(cell.config).contaminations["poisoned"]
            if poisoning.data is keep_data and not poisoning.parts:
                raise ConfigError(
                    f"poisonings: {cell.contamination} does nothing to training data, "
                    "but to updates; see compare"
                )


def _finish(
    plan: Plan, wanted: Sequence[Cell], failed: Mapping[Cell, str], screen: Console
) -> None:
    _evaluate_scenarios(
        plan, [cell for cell in wanted if not cell.poisoned and cell not in failed], screen
    )
    print_line(screen, "reading the results, resampling")
    found = collect(plan, [cell for cell in wanted if cell not in failed], failed)
    out = plan.grid.out
    write_text(
        out / RESULTS,
        long_table([one.result for one in found.trained], failed).to_csv(
            index=False, lineterminator="\n"
        ),
    )
    if not found.trained:
        return
    screen.print(ablation_table(_write(found)))
    print_last_line(screen, f"report: {out / PAGE}")


def _write(found: AblationResults) -> Entry:
    """Write the files; what ablation.json holds."""
    out, entries = found.plan.grid.out, make_summary(found)
    write_text(
        out / REPORT, json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )
    drawn = draw_figure(entries, out / PICTURE)
    write_text(out / PAGE, page(entries, [PICTURE] if drawn else []))
    return entries


def _evaluate_scenarios(plan: Plan, clean: Sequence[Cell], screen: Console) -> None:
    """Ask every clean model about the scenarios that it has not been asked about."""
    folders = {cell: plan.grid.out / CELLS / cell.folder for cell in clean}
    left = {cell: judging.unanswered(folder, plan.scenarios) for cell, folder in folders.items()}
    total = sum(len(scenarios) for scenarios in left.values())
    if not total:
        return
    print_line(
        screen,
        f"testing {format_count(len(clean), 'clean model')} under "
        f"{format_count(len(plan.scenarios), 'scenario')}",
    )
    with transient_bar(screen, "scenarios", total) as advance:
        for cell, scenarios in left.items():
            if scenarios:
                judging.evaluate_scenarios(cell, folders[cell], scenarios, advance)
