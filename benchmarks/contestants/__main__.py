"""Run one contestant in this process, which `benchmarks.engines` watches: `python -m
benchmarks.contestants NAME RULE WORK`."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from benchmarks.common.measure import Reporter
from benchmarks.common.work import Work

# Module of each contestant, and the arguments of its `run` besides work, rule and mark.
HOMES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("plain_loop", {}),
    "plain_pair": ("plain_pair", {}),
    "inline": ("fedrobust_engine", {"engine": "inline"}),
    "ray": ("fedrobust_engine", {"engine": "ray"}),
    "flower": ("flower", {}),
    "byzfl": ("byzfl", {}),
    "pfl": ("pfl", {}),
}


def main() -> None:
    """Import late: what a contestant does not need, it does not pay for."""
    name, rule, work = sys.argv[1], sys.argv[2], Work.parse(sys.argv[3])
    reporter = Reporter.from_environment()
    import torch

    torch.set_num_threads(work.threads)
    home, more = HOMES[name]
    result = importlib.import_module(f"benchmarks.contestants.{home}").run(
        work, rule, reporter.mark, **more
    )
    reporter.result(result)
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main()
