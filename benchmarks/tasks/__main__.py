"""Run one task in this process, which a benchmark watches. A task is a module with `run(settings,
mark) -> result`."""

from __future__ import annotations

import importlib
import json
import sys

from benchmarks.common.measure import Reporter


def main() -> None:
    """Import late: the start of a task belongs to it."""
    name, settings = sys.argv[1], json.loads(sys.argv[2])
    reporter = Reporter.from_environment()
    import torch

    torch.set_num_threads(settings["threads"])
    reporter.result(
        importlib.import_module(f"benchmarks.tasks.{name}").run(settings, reporter.mark)
    )


if __name__ == "__main__":
    main()
