"""The comparison: `python -m fedrobust.compare strategies=[fedavg,krum] contaminations=[label_flip]
poisoned=[0,3] seeds=[0,1,2]`.

Exit codes: 0 done, 1 at least one cell failed, 2 wrong input, 130 interrupted (the same command
resumes). docs/compare.md says the rest. From Python the module is called: `fedrobust.compare(...)`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from fedrobust.experiment.run_options import RunOptions
from fedrobust.studies.command_line import GridCommand, run_grid_command
from fedrobust.studies.comparison.grid import BLOCK, Cell, ComparisonSettings, read_grid

COMMAND = GridCommand(
    BLOCK,
    "Run every strategy under every contamination, for every number of poisoned clients and every "
    "seed; rank the strategies, with paired tests and intervals.",
    ComparisonSettings,
    {"strategy": "strategies", "contamination": "contaminations"},
)


def _start(words: Sequence[str], options: RunOptions) -> Mapping[Cell, str]:
    grid = read_grid(words)
    from fedrobust.reporting.console import make_console

    screen = make_console(quiet=options.quiet)
    if options.dry_run:
        from fedrobust.studies.comparison.dry_run import comparison_lines, plan_comparison

        print("dry run: no cell is run, nothing is written", flush=True)
        print(*comparison_lines(plan_comparison(grid, screen)), sep="\n", flush=True)
        return {}
    from fedrobust.studies.comparison.run import compare

    return compare(grid, screen)


def main() -> None:
    """The command line."""
    run_grid_command(COMMAND, _start)


class _CallableModule(ModuleType):
    """`fedrobust.compare` is this module and, called, the function of that name: a package cannot
    have both a module and another attribute of one name."""

    def __call__(self, *overrides: str, **settings: Any) -> Any:
        """See `fedrobust.studies.python_api.compare`."""
        from fedrobust.studies.python_api import compare

        return compare(*overrides, **settings)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    main()
