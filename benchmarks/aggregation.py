"""Each rule that needs no images of the server on a random matrix of N updates with D parameters:
seconds and the memory that it adds.

Beside it ByzFL's rule, where it has one, and a few in numpy and torch as one would write them down.
Those get N separate vectors, as replies come; fedrobust's server has filled its matrix by then,
which is a part of receiving and not timed here. The measure of all is one plain read of the matrix
(torch's sum of it) in the same process.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import report
from benchmarks.common.measure import ROOT, Measurement, run_task
from benchmarks.common.report import Spread
from benchmarks.common.work import environment

WITH_IMAGES = ("deepsight", "etf_dml", "feddf", "fltrust")  # rules that use root or proxy images
RULES = tuple(
    sorted(
        path.stem
        for path in (ROOT / "configs/strategy").glob("*.yaml")
        if path.stem not in WITH_IMAGES
    )
)
PLAIN = ("fedavg", "median", "trimmed_mean")
KRUMS = ("krum", "multi_krum")
BYZFL = (
    *PLAIN,
    *KRUMS,
    "meamed",
    "geometric_median",
    "centered_clipping",
    "norm_clipping",
    "mda",
    "monna",
    "caf",
)
REFERENCES = {"numpy": PLAIN, "torch": (*PLAIN, *KRUMS), "byzfl": BYZFL}
OURS, OTHERS = 1.6, 3.0  # matrices in memory at once, at most
# ByzFL's
HUNGRY = {
    "centered_clipping": 4.3,
    "geometric_median": 4.4,
    "median": 4.7,
    "trimmed_mean": 5.2,
    "caf": 5.7,
    "meamed": 6.3,
}
MOST_FOR_MDA = 20  # clients: ByzFL tries all sets


class Case(NamedTuple):
    """One measurement."""

    clients: int
    parameters: int
    rule: str
    by: str

    @property
    def f(self) -> int:
        """Number of attackers given to the rule."""
        least = (self.clients - 3) // (4 if self.rule == "bulyan" else 2)
        return max(0, min(3, least))

    @property
    def gigabytes(self) -> float:
        return 4 * self.clients * self.parameters / 1e9

    @property
    def need(self) -> float:
        """Gigabytes that its process may need."""
        return self.gigabytes * (OURS if self.by == "ours" else HUNGRY.get(self.rule, OTHERS))


def cases(options: argparse.Namespace) -> list[Case]:
    """All of them, fedrobust's own rule first of each group."""
    found = []
    for clients, parameters in options.sizes:
        for rule in options.rules:
            found.append(Case(clients, parameters, rule, "ours"))
            found += [
                Case(clients, parameters, rule, name)
                for name in options.beside
                if _has(name, rule, clients)
            ]
    return found


def sizes(text: str) -> list[tuple[int, int]]:
    """`10x11200000,100x11200000` as pairs (N, D); for argparse."""
    pairs = [word.partition("x")[::2] for word in report.names(text)]
    return [(report.count(clients), report.count(parameters)) for clients, parameters in pairs]


def _has(name: str, rule: str, clients: int) -> bool:
    if name == "byzfl" and (
        not importlib.util.find_spec("byzfl") or (rule == "mda" and clients > MOST_FOR_MDA)
    ):
        return False
    return rule in REFERENCES[name]


def available_gigabytes() -> float:
    """Memory that is available without swapping."""
    lines = Path("/proc/meminfo").read_text().split("\n")
    return next(
        int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("MemAvailable:")
    )


def measure(case: Case, options: argparse.Namespace) -> Measurement:
    """One case in a fresh process."""
    settings = {
        **case._asdict(),
        "f": case.f,
        "repeats": options.repeats,
        "threads": options.threads,
    }
    with tempfile.TemporaryDirectory(prefix="fedrobust-benchmark-") as folder:
        return run_task(
            "aggregation",
            settings,
            timeout=options.timeout,
            environment=environment(options.threads, folder),
        )


def measure_all(options: argparse.Namespace) -> dict[Case, Measurement]:
    """Measurements of the sizes that fit into the memory; the others are named."""
    out: dict[Case, Measurement] = {}
    for case in cases(options):
        if case.need > available_gigabytes():
            report.say(
                f"{title(case)}: left out, it may need {case.need:.0f} GB and "
                f"{available_gigabytes():.0f} GB are free"
            )
            continue
        out[case] = measure(case, options)
        found = out[case]
        seconds = ", ".join(f"{one:.3f} s" for one in found.result.get("seconds", ()))
        report.say(f"{title(case)}: {found.failure or seconds}")
    return out


def title(case: Case) -> str:
    """A case in words."""
    return f"{case.rule} of {case.clients} x {case.parameters / 1e6:g} M by {case.by}"


def summary(found: dict[Case, Measurement]) -> list[dict[str, Any]]:
    """A row per good case: seconds; reads: how many plain reads of the matrix that is; extra_mb:
    megabytes added; matrices: the matrix and what was added, in matrices. Of references also what
    ours needs of their time and memory (below 1: less), and faster, 1 / time_ratio."""
    good = {case: measured for case, measured in found.items() if not measured.failure}
    seconds = {case: Spread.of(measured.result["seconds"]) for case, measured in good.items()}
    rows = []
    for case, measured in good.items():
        extra = measured.result["extra_mb"]
        row = {
            **case._asdict(),
            "seconds": seconds[case]._asdict(),
            "extra_mb": extra,
            "matrices": 1 + extra / (1000 * case.gigabytes),
        }
        row["cpu"] = Spread.of(measured.result["cpu"]).median
        row["reads"] = seconds[case].median / measured.result["read"]
        mine = case._replace(by="ours")
        if case != mine and mine in good:
            row["time_ratio"] = seconds[mine].median / max(seconds[case].median, 1e-9)
            row["faster"] = seconds[case].median / max(seconds[mine].median, 1e-9)
            row["cpu_faster"] = row["cpu"] / max(Spread.of(good[mine].result["cpu"]).median, 1e-9)
            row["memory_ratio"] = good[mine].result["extra_mb"] / max(extra, 1e-9)
        rows.append(row)
    return rows


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The checked command line; exits with code 2."""
    parser = report.parser("aggregation", __doc__)
    usual = "10x11200000,100x11200000,10x23500000"
    parser.add_argument(
        "--sizes", type=sizes, default=sizes(usual), help=f"updates N x parameters D, ... ({usual})"
    )
    parser.add_argument(
        "--rules", type=report.names, default=list(RULES), help=f"of {','.join(RULES)}"
    )
    parser.add_argument(
        "--beside",
        type=report.names,
        default=["byzfl"],
        help="whose rules beside ours: numpy,torch,byzfl (byzfl)",
    )
    parser.add_argument("--repeats", type=report.count, default=3, help="calls in a process (3)")
    parser.add_argument("--threads", type=report.count, default=1, help="of torch (1)")
    parser.add_argument(
        "--timeout",
        type=report.count,
        default=1800,
        help="seconds after which one case counts as failed (1800)",
    )
    options = parser.parse_args(words)
    report.check_names("--rules", options.rules, RULES)
    report.check_names("--beside", options.beside, tuple(REFERENCES))
    report.check_writable("--json", options.json)
    if options.quick:
        options.sizes, options.rules, options.repeats = [(10, 100_000)], ["median"], 2
    return options


def main(words: Sequence[str]) -> int:
    """The command line; 1 where a case failed."""
    options, facts = parse(words), report.machine()
    found = measure_all(options)
    table = summary(found)
    lines = [
        [
            title(Case(row["clients"], row["parameters"], row["rule"], row["by"])),
            Spread(**row["seconds"]).text(3),
            f"{row['reads']:.1f}",
            f"{row['matrices']:.2f}",
            *(f"{row[key]:.1f}" if key in row else "" for key in ("faster", "cpu_faster")),
        ]
        for row in table
    ]
    note = (
        "Median [least, most] of the calls. Reads: of the matrix. Memory: the "
        "peak with the matrix, in matrices. CPU: less disturbed."
    )
    report.show(
        "Rules on random updates", ["", "s", "reads", "memory", "times ours", "of CPU"], lines, note
    )
    if options.json is not None:
        runs = [{**case._asdict(), **measured.plain()} for case, measured in found.items()]
        report.write_json(
            options.json, report.document("aggregation", words, facts, summary=table, runs=runs)
        )
    return int(any(measured.failure for measured in found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
