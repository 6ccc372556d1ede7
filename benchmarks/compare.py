"""Cost of a cell of `fedrobust.compare` beyond what it computes: in a process of its own, and in a
worker that has run others before, with and without pictures.

A cell is one round of three hospitals on drawn images and its clean twin. What it computes is
measured inside the process: rounds, twin, evaluation. Everything else of its CPU time is overhead:
of a process of its own also the start of Python, all imports and the end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.common import report
from benchmarks.common.measure import Measurement, run_task
from benchmarks.common.report import Spread
from benchmarks.common.work import environment

COLD = 2  # cells of a worker that do not count: they import and compile
LANES = {"own": "a process of its own", "warm": "a warm worker", "pictures": "with pictures"}


class Cost(NamedTuple):
    """CPU seconds of a cell, and how many of them it computes."""

    cpu: float
    computed: float

    @property
    def overhead(self) -> float:
        """CPU seconds beyond."""
        return self.cpu - self.computed


def costs(lane: str, measured: Measurement) -> list[Cost]:
    """The cells of one process that count: all of it for the only one of its own process."""
    cells = [Cost(**one) for one in measured.result["cells"]]
    if lane == "own":
        return [Cost(measured.cpu, cells[0].computed)]
    return cells[COLD:]


def start(lane: str, options: argparse.Namespace, folder: str, repeat: int) -> Measurement:
    """One process of a lane; each cell has a seed of its own, so that no twin is there before."""
    number = 1 if lane == "own" else COLD + options.cells
    place = list(LANES).index(lane)
    settings = {
        "folder": f"{folder}/{lane}-{repeat}",
        "first": 1000 * place + 100 * (repeat + 1),
        "cells": number,
        "pictures": lane == "pictures",
        "threads": options.threads,
    }
    given = environment(options.threads, f"{folder}/cache")
    return run_task("compare", settings, timeout=options.timeout, environment=given)


def measure_all(options: argparse.Namespace, folder: str) -> dict[str, list[Measurement]]:
    """The repeats, interleaved; a first process fills the caches of files and does not count."""
    found: dict[str, list[Measurement]] = {lane: [] for lane in options.only}
    if not options.quick:
        start("own", options, folder, -1)
    for repeat in range(options.repeats):
        for lane in options.only:
            measured = start(lane, options, folder, repeat)
            if measured.failure:
                print(measured.output, file=sys.stderr)
                report.say(f"{LANES[lane]}: failed: {measured.failure}")
            found[lane].append(measured)
            report.say(f"{LANES[lane]} {repeat + 1}/{options.repeats}: {measured.wall:.1f} s")
    return found


def summary(found: Mapping[str, Sequence[Measurement]]) -> dict[str, dict[str, Spread]]:
    """CPU seconds of a cell, computed and beyond, by lane, and the overhead as a share of that of a
    process of its own."""
    cells = {
        lane: [cost for one in many if not one.failure for cost in costs(lane, one)]
        for lane, many in found.items()
    }
    table = {
        lane: {
            "cpu": Spread.of([one.cpu for one in own]),
            "computed": Spread.of([one.computed for one in own]),
            "overhead": Spread.of([one.overhead for one in own]),
        }
        for lane, own in cells.items()
        if own
    }
    if "own" in table:
        whole = table["own"]["overhead"].median
        for values in table.values():
            values["ratio"] = Spread(*(one / whole for one in values["overhead"]))
    return table


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The checked command line; exits with code 2."""
    parser = report.parser("compare", __doc__)
    parser.add_argument(
        "--repeats", type=report.count, default=3, help="processes of each kind, interleaved (3)"
    )
    parser.add_argument(
        "--cells",
        type=report.count,
        default=5,
        help=f"cells of a worker that count, after {COLD} others (5)",
    )
    parser.add_argument(
        "--threads", type=report.count, default=1, help="of torch in every process (1)"
    )
    parser.add_argument("--only", type=report.names, default=list(LANES), help=",".join(LANES))
    parser.add_argument(
        "--timeout",
        type=report.count,
        default=600,
        help="seconds after which one process counts as failed (600)",
    )
    options = parser.parse_args(words)
    report.check_names("--only", options.only, list(LANES))
    report.check_writable("--json", options.json)
    if options.quick:
        options.repeats, options.cells, options.only = 1, 1, ["own", "warm"]
    return options


def main(words: Sequence[str]) -> int:
    """The command line; 1 where a process failed."""
    options, facts = parse(words), report.machine()
    with tempfile.TemporaryDirectory(prefix="fedrobust-benchmark-") as folder:
        found = measure_all(options, folder)
    table = summary(found)
    columns = ("cpu", "computed", "overhead", "ratio")
    rows = [
        [LANES[lane], *(values[name].text() if name in values else "" for name in columns)]
        for lane, values in table.items()
    ]
    report.show(
        "A cell of fedrobust.compare",
        ["", "CPU s", "of it computed", "overhead", "to own process"],
        rows,
        "Median [least, most].",
    )
    if options.json is not None:
        parts: dict[str, Any] = {
            "summary": {
                lane: {name: spread._asdict() for name, spread in values.items()}
                for lane, values in table.items()
            },
            "runs": {lane: [one.plain() for one in many] for lane, many in found.items()},
        }
        report.write_json(options.json, report.document("compare", words, facts, **parts))
    return int(any(one.failure for many in found.values() for one in many))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
