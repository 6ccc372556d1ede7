"""The ablation: `python -m fedrobust.ablation experiment=poster data=ham10000 data.root=...
data.split=drawn`.

Exit codes: 0 done, 1 a training failed, 2 wrong input, 130 interrupted (the same command resumes).
docs/ablation.md has the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedrobust.experiment.run_options import RunOptions
from fedrobust.studies.ablation.plan import BLOCK, NOT_CENTRAL, AblationSettings, read_plan
from fedrobust.studies.command_line import GridCommand, run_grid_command
from fedrobust.studies.comparison.grid import Cell

COMMAND = GridCommand(
    BLOCK,
    "Train the poster's models centrally with every seed, on clean and on poisoned data, and "
    "measure how much of their quality is lost on noisy images and under clinical scenarios. "
    "Without experiment=... it is experiment=poster.",
    AblationSettings,
    {"contamination": "poisonings"},
    frozenset(NOT_CENTRAL),
)


def _start(words: Sequence[str], options: RunOptions) -> Mapping[Cell, str]:
    plan = read_plan(words)
    from fedrobust.reporting.console import make_console
    from fedrobust.studies.ablation.run import ablate, dry_run_lines

    screen = make_console(quiet=options.quiet)
    if options.dry_run:
        print("dry run: nothing is trained to the end or written", flush=True)
        print(*dry_run_lines(plan, screen), sep="\n", flush=True)
        return {}
    return ablate(plan, screen)


def main() -> None:
    """The command line."""
    run_grid_command(COMMAND, _start)


if __name__ == "__main__":
    main()
