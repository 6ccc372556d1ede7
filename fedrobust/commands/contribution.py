"""Who helps, who harms: `fedrobust contribution [key=value | group=choice ...]`.

Exit codes: 0 done, 1 a training failed, 2 wrong input, 130 interrupted (the same command resumes).
docs/contribution.md has the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedrobust.errors import ConfigError
from fedrobust.experiment.run_options import RunOptions
from fedrobust.studies.command_line import GridCommand, run_grid_command
from fedrobust.studies.comparison.grid import Cell
from fedrobust.studies.contribution.plan import BLOCK, ContributionSettings, read_plan

COMMAND = GridCommand(
    BLOCK,
    "Train coalitions of the hospitals and say what each hospital adds to the performance of the "
    "global model and to its drop: leave-one-out and Shapley values.",
    ContributionSettings,
    {},
)


def _start(words: Sequence[str], options: RunOptions) -> Mapping[Cell, str]:
    if options.dry_run:
        raise ConfigError("dry_run=true: is for simulate and compare; leave it out")
    plan = read_plan(words)
    from fedrobust.reporting.console import make_console
    from fedrobust.studies.contribution.run import measure_contributions

    return measure_contributions(plan, make_console(quiet=options.quiet))


def main() -> None:
    """The command line."""
    run_grid_command(COMMAND, _start)


if __name__ == "__main__":
    main()
