"""Cost of starting: the help text of every command, a run of two hospitals and two rounds inline
and on Ray, and where the imports' time goes.

Every run is a fresh process, after one that fills the caches (of files, and of fedrobust's drawn
images).
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import report
from benchmarks.common.measure import Measurement, run_fresh
from benchmarks.common.report import Spread
from benchmarks.common.work import environment

SMOKE = ("experiment=smoke", "num_clients=2", "poisoned=0", "rounds=2")
COMMANDS = ("simulate", "compare", "ablation", "meff", "sanitise", "federation")
# module and its words
STARTS: dict[str, tuple[str, ...]] = {
    **{f"{name}-help": (name, "--help") for name in COMMANDS},
    "choice-help": ("simulate", "strategy=krum", "--help"),
    "inline": ("simulate", *SMOKE, "engine=inline"),
    "ray": ("simulate", *SMOKE, "engine=ray", "engine.workers=2", "engine.threads=1"),
}
# seconds by the clock at most, on two cores that do nothing else
TARGETS = {
    **{f"{name}-help": 1.0 for name in COMMANDS},
    "simulate-help": 0.5,
    "choice-help": 0.5,
    "inline": 5.0,
    "ray": 12.0,
}
IMPORTS = {
    "help": "fedrobust.simulate",
    "run": "fedrobust.runtime.simulation",
    "ray": "fedrobust.runtime.engines.ray_grid",
}
TOP = 15


class Import(NamedTuple):
    """A line of `python -X importtime`: milliseconds of the module alone, and with all that it
    imports first."""

    module: str
    own: float
    total: float


def imports(text: str) -> list[Import]:
    """The lines of `python -X importtime`, in the order in which the imports ended."""
    lines = re.findall(r"^import time:\s+(\d+) \|\s+(\d+) \| *(\S+)$", text, re.MULTILINE)
    return [Import(module, int(own) / 1000, int(total) / 1000) for own, total, module in lines]


def by_package(found: Sequence[Import]) -> dict[str, float]:
    """Milliseconds of each top-level package's own modules, the slowest first: these add up."""
    sums: dict[str, float] = {}
    for one in found:
        package = one.module.partition(".")[0]
        sums[package] = sums.get(package, 0.0) + one.own
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def start(name: str, options: argparse.Namespace, folder: str, repeat: int) -> Measurement:
    """One fresh process of a command."""
    module, *words = STARTS[name]
    if "--help" not in words:
        words.append(f"hydra.run.dir={Path(folder) / f'{name}-{repeat}'}")
    command = [sys.executable, "-m", f"fedrobust.{module}", *words]
    return run_fresh(
        command, timeout=options.timeout, environment=environment(options.threads, folder)
    )


def import_time(module: str, options: argparse.Namespace, folder: str) -> list[Import]:
    """All imports of a module in a fresh process, measured by Python itself."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    measured = run_fresh(
        command, timeout=options.timeout, environment=environment(options.threads, folder)
    )
    if measured.failure:
        report.refuse(f"import {module}: {measured.failure}")
    return imports(measured.output)


def measure_all(options: argparse.Namespace, folder: str) -> dict[str, list[Measurement]]:
    """The repeats, interleaved; the first round of all fills the caches and does not count."""
    found: dict[str, list[Measurement]] = {name: [] for name in options.only}
    for repeat in range(-1, options.repeats):
        for name in options.only:
            measured = start(name, options, folder, repeat)
            if measured.failure:
                print(measured.output, file=sys.stderr)
                report.say(f"{name}: failed: {measured.failure}")
            if repeat >= 0:
                found[name].append(measured)
                report.say(f"{name} {repeat + 1}/{options.repeats}: {measured.wall:.1f} s")
    return found


def summary(found: Mapping[str, Sequence[Measurement]]) -> dict[str, dict[str, Spread]]:
    """Wall seconds, CPU seconds and megabytes of each start, over its good runs."""
    good = {name: [one for one in many if not one.failure] for name, many in found.items()}
    return {
        name: {
            "wall": Spread.of([one.wall for one in many]),
            "cpu": Spread.of([one.cpu for one in many]),
            "pss": Spread.of([one.peak.pss for one in many]),
        }
        for name, many in good.items()
        if many
    }


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The checked command line; exits with code 2."""
    parser = report.parser("startup", __doc__)
    parser.add_argument(
        "--repeats",
        type=report.count,
        default=5,
        help="measurements of everything, interleaved (5)",
    )
    parser.add_argument(
        "--threads", type=report.count, default=1, help="of torch in every process (1)"
    )
    parser.add_argument(
        "--only", type=report.names, default=list(STARTS), help=f"of {','.join(STARTS)}"
    )
    parser.add_argument(
        "--timeout",
        type=report.count,
        default=300,
        help="seconds after which one run counts as failed (300)",
    )
    options = parser.parse_args(words)
    report.check_names("--only", options.only, list(STARTS))
    report.check_writable("--json", options.json)
    if options.quick:
        options.repeats, options.only = 1, ["simulate-help"]
    return options


def main(words: Sequence[str]) -> int:
    """The command line; 1 where a run failed."""
    options, facts = parse(words), report.machine()
    with tempfile.TemporaryDirectory(prefix="fedrobust-benchmark-") as folder:
        found = measure_all(options, folder)
        modules = {
            name: import_time(IMPORTS[name], options, folder)
            for name in (["help"] if options.quick else IMPORTS)
        }
    table = summary(found)
    rows = [
        [
            name,
            values["wall"].text(),
            f"{TARGETS[name]:g}" if name in TARGETS else "",
            values["cpu"].text(),
            values["pss"].text(0),
        ]
        for name, values in table.items()
    ]
    report.show(
        "From start to end",
        ["", "wall s", "target", "CPU s", "peak PSS MB"],
        rows,
        "Median [least, most].",
    )
    for name, lines in modules.items():
        _show_imports(IMPORTS[name], lines)
    if options.json is not None:
        parts: dict[str, Any] = {
            "summary": {
                name: {key: spread._asdict() for key, spread in values.items()}
                for name, values in table.items()
            },
            "runs": {name: [one.plain() for one in many] for name, many in found.items()},
            "import_milliseconds": {
                IMPORTS[name]: by_package(lines) for name, lines in modules.items()
            },
        }
        report.write_json(options.json, report.document("startup", words, facts, **parts))
    return int(any(one.failure for many in found.values() for one in many))


def _show_imports(module: str, lines: Sequence[Import]) -> None:
    packages = list(by_package(lines).items())[:TOP]
    heaviest = sorted(lines, key=lambda one: -one.total)[:TOP]
    rows = [
        [package, f"{own:.0f}", one.module, f"{one.total:.0f}", f"{one.own:.0f}"]
        for (package, own), one in zip(packages, heaviest, strict=False)
    ]
    note = (
        f"All modules together {sum(one.own for one in lines):.0f} ms, with Python's own measuring."
    )
    report.show(
        f"import {module}",
        ["package", "own ms", "module", "with its imports ms", "alone ms"],
        rows,
        note,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
