"""Cost of busy neighbours: a run alone, and the same run beside processes that compute all the time
on the same cores. With as many of them as cores a fair share is half of the time: 2 times slower.

Everything runs on `--cores` CPUs with fedrobust's own number of threads. Each wait policy is
measured alone and beside: `default` is fedrobust's, `spinning` that of libgomp (threads wait for
milliseconds before they sleep), `sleeping` never waits awake. The model of a run must not depend on
policy or neighbours.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import report
from benchmarks.common.measure import Measurement, run_fresh
from benchmarks.common.report import Spread
from fedrobust.utils.threads import NUMBER, SAID_BY_USER

RUNS = {"smoke": ("experiment=smoke",), "quick": ("experiment=quick",)}
ENGINES = ("inline", "ray")
CASES = [f"{run}-{engine}" for run in RUNS for engine in ENGINES]
POLICIES: dict[str, dict[str, str]] = {
    "default": {},
    "spinning": {"GOMP_SPINCOUNT": "300000"},
    "sleeping": {"OMP_WAIT_POLICY": "PASSIVE"},
}
NEIGHBOUR = (sys.executable, "-c", "while True: pass")
COLUMNS = {
    "alone": "alone s",
    "beside": "beside s",
    "cpu_alone": "alone CPU s",
    "cpu_beside": "beside CPU s",
    "slower": "times slower",
}
LIMIT = 2.5  # times slower beside the neighbours, at most


class Pair(NamedTuple):
    """A run alone and beside the neighbours; models: the digest of what each has trained, "" where
    it failed."""

    alone: Measurement
    beside: Measurement
    models: tuple[str, str]

    @property
    def complete(self) -> bool:
        return not self.alone.failure and not self.beside.failure


@contextmanager
def neighbours(number: int) -> Iterator[None]:
    """So many processes that never rest, on the cores of this process."""
    started = [subprocess.Popen(NEIGHBOUR) for _ in range(number)]
    try:
        yield
    finally:
        for one in started:
            one.kill()
        for one in started:
            one.wait()


def words(case: str, folder: Path) -> list[str]:
    """The command line of a case, with its output folder. Without a clean twin, which the first run
    would leave in the cache to the others."""
    run, _, engine = case.partition("-")
    workers = ["engine.workers=2"] if engine == "ray" else []
    return [
        *RUNS[run],
        f"engine={engine}",
        *workers,
        "evaluation.twin=false",
        f"hydra.run.dir={folder}",
    ]


def run_case(case: str, policy: str, folder: Path, timeout: float) -> tuple[Measurement, str]:
    """One fresh process of the main job; what it cost, and the digest of its model."""
    command = [sys.executable, "-m", "fedrobust.simulate", *words(case, folder)]
    environment = {
        "FEDROBUST_CACHE": str(folder.parent),
        "CUDA_VISIBLE_DEVICES": "",
        **POLICIES[policy],
    }
    measured = run_fresh(command, timeout=timeout, environment=environment)
    if measured.failure:
        print(measured.output, file=sys.stderr)
        report.say(f"{case}, {policy}: failed: {measured.failure}")
        return measured, ""
    return measured, hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def measure_pair(
    case: str, policy: str, options: argparse.Namespace, folder: Path, repeat: int
) -> Pair:
    """A run alone, then beside the neighbours."""
    name = f"{case}-{policy}-{repeat}"
    alone, model = run_case(case, policy, folder / f"{name}-alone", options.timeout)
    with neighbours(options.cores):
        beside, other = run_case(case, policy, folder / f"{name}-beside", options.timeout)
    report.say(
        f"{case}, {policy}, {repeat + 1}/{options.repeats}: {alone.wall:.1f} s alone, "
        f"{beside.wall:.1f} s beside {options.cores} busy processes"
    )
    return Pair(alone, beside, (model, other))


def measure_all(options: argparse.Namespace, folder: Path) -> dict[tuple[str, str], list[Pair]]:
    """The pairs of each (case, policy), repeats interleaved; one run fills the caches before."""
    run_case("smoke-inline", "default", folder / "first", options.timeout)
    found: dict[tuple[str, str], list[Pair]] = {
        (case, policy): [] for case in options.only for policy in options.policies
    }
    for repeat in range(options.repeats):
        for (case, policy), pairs in found.items():
            pairs.append(measure_pair(case, policy, options, folder, repeat))
    return found


def summary(
    found: Mapping[tuple[str, str], Sequence[Pair]],
) -> dict[tuple[str, str], dict[str, Spread]]:
    """Seconds alone and beside, CPU seconds alone and beside, and how many times slower a run is
    beside the neighbours, over the pairs without a failure."""
    complete = {key: [one for one in pairs if one.complete] for key, pairs in found.items()}
    return {
        key: {
            "alone": Spread.of([one.alone.wall for one in pairs]),
            "beside": Spread.of([one.beside.wall for one in pairs]),
            "cpu_alone": Spread.of([one.alone.cpu for one in pairs]),
            "cpu_beside": Spread.of([one.beside.cpu for one in pairs]),
            "slower": Spread.of([one.beside.wall / one.alone.wall for one in pairs]),
        }
        for key, pairs in complete.items()
        if pairs
    }


def models(found: Mapping[tuple[str, str], Sequence[Pair]]) -> dict[str, int]:
    """The number of different models of each case; 1 where they are equal by bit."""
    digests: dict[str, set[str]] = {}
    for (case, _), pairs in found.items():
        digests.setdefault(case, set()).update(
            digest for one in pairs for digest in one.models if digest
        )
    return {case: len(several) for case, several in digests.items()}


def parse(typed: Sequence[str]) -> argparse.Namespace:
    """The checked command line; exits with code 2."""
    parser = report.parser("neighbour", __doc__)
    parser.add_argument("--repeats", type=report.count, default=3, help="of everything (3)")
    parser.add_argument(
        "--cores", type=report.count, default=2, help="CPUs for all, and busy processes (2)"
    )
    parser.add_argument("--only", type=report.names, default=CASES, help=f"of {','.join(CASES)}")
    parser.add_argument(
        "--policies",
        type=report.names,
        default=["default"],
        help=f"of {','.join(POLICIES)} (default)",
    )
    parser.add_argument(
        "--timeout",
        type=report.count,
        default=1800,
        help="seconds after which one run counts as failed (1800)",
    )
    options = parser.parse_args(typed)
    report.check_names("--only", options.only, CASES)
    report.check_names("--policies", options.policies, list(POLICIES))
    report.check_writable("--json", options.json)
    if options.cores > len(os.sched_getaffinity(0)):
        report.refuse(f"--cores={options.cores}: more than this process may use")
    if options.quick:
        options.repeats, options.only = 1, ["smoke-inline"]
    return options


def main(typed: Sequence[str]) -> int:
    """The command line; 1 where a run failed, was too slow, or had another model."""
    options, facts = parse(typed), report.machine()
    for name in (NUMBER, *SAID_BY_USER):  # this process has them from its import of fedrobust
        os.environ.pop(name, None)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    with tempfile.TemporaryDirectory(prefix="fedrobust-benchmark-") as folder:
        found = measure_all(options, Path(folder))
    table, different = summary(found), models(found)
    rows = [
        [case, policy, *(values[name].text(1) for name in COLUMNS), str(different[case])]
        for (case, policy), values in table.items()
    ]
    report.show(
        f"Beside {options.cores} busy processes on {options.cores} CPUs",
        ["", "waiting", *COLUMNS.values(), "models"],
        rows,
        f"Median [least, most]; {LIMIT:g} times slower is the limit, and 1 model a case.",
    )
    if options.json is not None:
        parts: dict[str, Any] = {
            "summary": [
                {"case": case, "policy": policy, "models": different[case]}
                | {name: spread._asdict() for name, spread in values.items()}
                for (case, policy), values in table.items()
            ],
            "runs": [
                {"case": case, "policy": policy, "place": place, **one.plain()}
                for (case, policy), pairs in found.items()
                for pair in pairs
                for place, one in (("alone", pair.alone), ("beside", pair.beside))
            ],
        }
        report.write_json(options.json, report.document("neighbour", typed, facts, **parts))
    return int(
        not all(one.complete for pairs in found.values() for one in pairs)
        or any(number != 1 for number in different.values())
        or any(
            values["slower"].median > LIMIT
            for (_, policy), values in table.items()
            if policy == "default"
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
