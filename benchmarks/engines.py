"""fedrobust's engines and other frameworks against a plain training loop that does the same work:
CPU time, wall time, memory. Two plain loops side by side show what two workers can reach on this
machine.

Ten clients, three rounds, ResNet-18 with 64 or ResNet-50 with 32 images of 32 pixels per client,
one local epoch of SGD, the global model evaluated after every round. Every measurement has a
process of its own, and the repeats are interleaved.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.common import report
from benchmarks.common.measure import Measurement, run_fresh
from benchmarks.common.report import Spread
from benchmarks.common.work import WORKLOADS, Work, write_images
from fedrobust.utils.counting import format_count
from fedrobust.utils.foreign_text import split_lines

RULES = ("fedavg", "median", "trimmed_mean", "multi_krum")
ONE_RULE = RULES[:1]
BYZFL_RULES = ("fedavg", "median", "multi_krum")
# Which rules each contestant runs, the package it needs, and how that is had.
CONTESTANTS: dict[str, tuple[Sequence[str], str, str]] = {
    "plain_pair": (ONE_RULE, "fedrobust", "pip install ."),
    "inline": (RULES, "fedrobust", "pip install ."),
    "ray": (RULES, "fedrobust", "pip install ."),
    "flower": (ONE_RULE, "flwr", "pip install 'flwr[simulation]>=1.41,<1.43'"),
    "byzfl": (BYZFL_RULES, "byzfl", "pip install byzfl==0.0.11"),
    "pfl": (ONE_RULE, "pfl", "pip install 'pfl[pytorch]==0.6.*'"),
}
PLAIN = {"plain": "plain loop", "plain_pair": "two plain loops"}  # in the tables
MEASURES = ("cpu", "wall", "pss", "own")
HEADERS = {"cpu": "CPU s", "wall": "wall s", "pss": "peak PSS MB", "own": "anonymous and shared MB"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A contestant with a rule."""

    name: str
    rule: str

    @property
    def title(self) -> str:
        return PLAIN.get(self.name, f"{self.name} {self.rule}")


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement."""

    workload: str
    entry: Entry
    repeat: int
    measured: Measurement


def whole(measured: Measurement) -> dict[str, float]:
    """The whole process, from its start to its end."""
    return {"cpu": measured.cpu, "wall": measured.wall, **_memory([measured.peak])}


def steady(measured: Measurement) -> dict[str, float]:
    """Per round, from the second one on: what starting costs is not in it. Needs the marks of two
    rounds or more."""
    first, *later = [mark for mark in measured.marks if mark.number >= 1]
    seconds = [
        mark.at - before.resumed for before, mark in zip([first, *later], later, strict=False)
    ]
    cpu = (later[-1].cpu - first.cpu) / len(later)
    return {"cpu": cpu, "wall": sum(seconds) / len(later), **_memory([mark.peak for mark in later])}


def _memory(peaks: Sequence[Any]) -> dict[str, float]:
    return {
        "pss": max(peak.pss for peak in peaks),
        "own": max(peak.anonymous + peak.shared for peak in peaks),
    }


PARTS = {"whole": whole, "steady": steady}


def summary(runs: Sequence[Run], part: str) -> dict[str, dict[str, dict[str, Spread]]]:
    """{entry: {measure: {"value": Spread, "ratio": Spread to the plain loop of the same repeat}}}
    of one workload's good runs."""
    figures = {
        (run.entry, run.repeat): PARTS[part](run.measured)
        for run in runs
        if not run.measured.failure
    }
    out: dict[str, dict[str, dict[str, Spread]]] = {}
    for entry in dict.fromkeys(run.entry for run in runs):
        mine = {repeat: values for (who, repeat), values in figures.items() if who == entry}
        plain = {
            repeat: values
            for (who, repeat), values in figures.items()
            if who.name == "plain" and repeat in mine
        }
        if mine and plain:
            out[entry.title] = {
                name: {
                    "value": Spread.of([values[name] for values in mine.values()]),
                    "ratio": Spread.of(
                        [mine[repeat][name] / max(plain[repeat][name], 1e-9) for repeat in plain]
                    ),
                }
                for name in MEASURES
            }
    return out


def entries(only: Sequence[str], rules: Sequence[str]) -> list[Entry]:
    """The plain loop, and the wanted contestants that are installed with the rules that they
    know."""
    found = [Entry("plain", "fedavg")]
    for name in only:
        known, package, how = CONTESTANTS[name]
        if importlib.util.find_spec(package) is None:
            report.say(f"{name}: not installed ({how})")
            continue
        found += [Entry(name, rule) for rule in rules if rule in known]
    return found


def works(options: argparse.Namespace, folder: str) -> Iterator[Work]:
    """The chosen workloads; with --quick one of a moment."""
    if options.quick:
        yield Work(
            "quick",
            "small",
            8,
            folder,
            clients=3,
            rounds=2,
            validation=4,
            batch=4,
            threads=options.threads,
        )
        return
    for name in options.workload:
        model, images = WORKLOADS[name]
        yield Work(name, model, images, folder, threads=options.threads, workers=options.workers)


def measure(work: Work, entry: Entry, timeout: float) -> Measurement:
    """One contestant in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.contestants", entry.name, entry.rule, work.text()]
    return run_fresh(command, timeout=timeout, environment=work.environment)


def warm_up(work: Work, timeout: float) -> None:
    """Fill fedrobust's cache of images and the machine's cache of files, so that no measurement
    pays for them in a measurement."""
    found = measure(work, Entry("inline", "fedavg"), timeout)
    if found.failure:
        print(found.output, file=sys.stderr)
        report.refuse(f"warm-up: {found.failure}")


def measure_all(options: argparse.Namespace, folder: str) -> list[Run]:
    """Every workload, the repeats interleaved: a b c a b c."""
    runs = []
    wanted = entries(options.only, options.rules)
    for work in works(options, folder):
        write_images(work)
        if not options.quick:
            warm_up(work, options.timeout)
        for repeat in range(options.repeats):
            for entry in wanted:
                measured = measure(work, entry, options.timeout)
                measured = check_work(measured, work)
                runs.append(Run(work.name, entry, repeat, measured))
                report.say(
                    f"{work.name} {repeat + 1}/{options.repeats} {entry.title}: {_line(measured)}"
                )
                if measured.failure:
                    report.say(
                        "\n".join(f"    {line}" for line in split_lines(measured.output)[-15:])
                    )
    return runs


def _line(measured: Measurement) -> str:
    if measured.failure:
        return f"failed: {measured.failure}"
    left = (
        f", {format_count(measured.left, 'process', 'processes')} had to be killed"
        if measured.left
        else ""
    )
    return f"{measured.cpu:.1f} CPU s, {measured.wall:.1f} s, {measured.peak.pss:.0f} MB{left}"


def check_work(measured: Measurement, work: Work) -> Measurement:
    """The measurement, as a failure where the contestant did not do exactly the work."""
    if measured.failure:
        return measured
    found = {name: measured.result.get(name) for name in work.done}
    if found == work.done and [mark.number for mark in measured.marks] == list(
        range(work.rounds + 1)
    ):
        return measured
    return Measurement(
        measured.wall,
        measured.cpu,
        measured.peak,
        measured.marks,
        measured.result,
        f"did {found}, not {work.done}",
    )


def odd_ones(runs: Sequence[Run], tolerance: float = 0.25) -> list[str]:
    """Contestants whose FedAvg moved the last layer by another distance than the plain loop did:
    not the same work."""
    moved: dict[str, list[float]] = {}
    for run in runs:
        if run.entry.rule == "fedavg" and not run.measured.failure:
            moved.setdefault(run.entry.name, []).append(run.measured.result["moved"])
    plain = median(moved.pop("plain", [0.0]))
    moved.pop("plain_pair", None)  # its loops average half of the clients each
    return [
        f"{name} moved the last layer by {median(values):.4f}, the plain loop by {plain:.4f}"
        for name, values in moved.items()
        if abs(median(values) - plain) > tolerance * plain
    ]


def show(runs: Sequence[Run]) -> None:
    """Two tables per workload."""
    for workload in dict.fromkeys(run.workload for run in runs):
        mine = [run for run in runs if run.workload == workload]
        for part, words in (
            ("steady", "per round, from the second on"),
            ("whole", "whole process, with start and end"),
        ):
            rows = []
            for title, values in summary(mine, part).items():
                row = [title]
                for name in MEASURES:
                    row += [
                        values[name]["value"].text(0 if name in ("pss", "own") else 2),
                        values[name]["ratio"].text(),
                    ]
                rows.append(row)
            columns = ["", *(text for name in MEASURES for text in (HEADERS[name], "to plain"))]
            note = (
                "Median [least, most] over the repeats; ratios to the plain loop "
                "(its FedAvg) of the same repeat."
            )
            report.show(f"{workload}: {words}", columns, rows, note)
        for line in odd_ones(mine):
            print(f"note: {line}")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The checked command line; exits with code 2."""
    parser = report.parser("engines", __doc__)
    parser.add_argument(
        "--repeats",
        type=report.count,
        default=3,
        help="measurements of everything, interleaved (3)",
    )
    parser.add_argument(
        "--threads",
        type=report.count,
        default=1,
        help="of torch in every process that trains (1)",
    )
    parser.add_argument(
        "--workers",
        type=report.count,
        default=2,
        help="processes of the engines that have them, ray and flower, whose server has as many "
        "threads as all of them (2)",
    )
    parser.add_argument(
        "--only",
        type=report.names,
        default=list(CONTESTANTS),
        help=f"of {','.join(CONTESTANTS)}; the plain loop always runs",
    )
    parser.add_argument(
        "--workload", type=report.names, default=list(WORKLOADS), help=f"of {','.join(WORKLOADS)}"
    )
    parser.add_argument(
        "--rules", type=report.names, default=list(RULES), help=f"of {','.join(RULES)}"
    )
    parser.add_argument(
        "--timeout",
        type=report.count,
        default=1800,
        help="seconds after which one measurement counts as failed (1800)",
    )
    options = parser.parse_args(words)
    for option, known in (("only", CONTESTANTS), ("workload", WORKLOADS), ("rules", RULES)):
        report.check_names(f"--{option}", getattr(options, option), list(known))
    report.check_writable("--json", options.json)
    return options


def main(words: Sequence[str]) -> int:
    """The command line; 1 where a contestant failed."""
    options, facts = parse(words), report.machine()
    with tempfile.TemporaryDirectory(prefix="fedrobust-benchmark-") as folder:
        runs = measure_all(options, folder)
    show(runs)
    if options.json is not None:
        report.write_json(options.json, _document(words, facts, runs))
    return int(any(run.measured.failure for run in runs))


def _document(
    words: Sequence[str], facts: Mapping[str, Any], runs: Sequence[Run]
) -> dict[str, Any]:
    tables = {
        workload: {
            part: {
                title: {
                    name: {key: spread._asdict() for key, spread in two.items()}
                    for name, two in values.items()
                }
                for title, values in summary(
                    [run for run in runs if run.workload == workload], part
                ).items()
            }
            for part in PARTS
        }
        for workload in dict.fromkeys(run.workload for run in runs)
    }
    raw = [
        {
            "workload": run.workload,
            "contestant": run.entry.name,
            "rule": run.entry.rule,
            "repeat": run.repeat,
            **run.measured.plain(),
        }
        for run in runs
    ]
    return report.document("engines", words, facts, summary=tables, runs=raw)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
