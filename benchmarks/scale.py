"""Growth of a run with the number of clients: start-up, training per client, aggregation, memory of
the one process (engine=inline).

Every client has four training images, so that what is seen is the cost of a client and not that of
its images.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import report
from benchmarks.common.measure import Measurement, run_task
from benchmarks.common.work import environment, write_archive
from fedrobust.utils.foreign_text import split_lines

STRATEGIES = ("median", "multi_krum", "etf_dml")
# training images of each client, which has one for validation and one for testing besides
TRAIN, CLASSES, SIZE = 4, 10, 32
SAMPLED = {"clients": 10_000, "per_round": 100, "model": "small"}
# seconds of a client's training in a round, and of a rule for each of 1000 clients, ResNet-18, on
# two quiet cores; only to say beforehand how long a curve takes
TRAINING, START = 0.14, 15.0
AGGREGATION = {"median": 0.07, "multi_krum": 0.25, "etf_dml": 0.25}
PARAMETERS = {"small": 0.2e6, "resnet18": 11.2e6, "resnet50": 23.5e6}
IN_MEMORY = 2048 << 20  # of server.max_updates_mb: larger matrices lie in files
FIGURES = {
    "start": "s until round 1",
    "client": "ms per client",
    "client_cpu": "CPU ms per client",
    "client_first": "CPU ms per client in round 1",
    "aggregate": "s to aggregate",
    "aggregate_cpu": "CPU s to aggregate",
    "anonymous": "anonymous MB",
    "mapped": "mapped files MB",
    "pss": "peak PSS MB",
}


def figures(measured: Measurement) -> dict[str, float]:
    """The numbers of one run; times are those of its last round, since in the first one much memory
    is touched for the first time, which is expensive on some machines (virtual ones above all).
    Memory from the beginning of round 1 on, the parts' peaks apart."""
    rounds: Sequence[Mapping[str, float]] = measured.result["rounds"]
    first, last = rounds[0], rounds[-1]
    later = [mark.peak for mark in measured.marks if mark.number >= 1]
    return {
        "start": measured.marks[0].at,
        "client": 1000 * last["train"] / last["clients"],
        "client_cpu": 1000 * last["cpu_train"] / last["clients"],
        "client_first": 1000 * first["cpu_train"] / first["clients"],
        "aggregate": last["aggregate"],
        "aggregate_cpu": last["cpu_aggregate"],
        "anonymous": max(peak.anonymous for peak in later),
        "mapped": max(peak.file for peak in later),
        "pss": max(peak.pss for peak in later),
    }


def cases(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The runs: every number of clients with every strategy; with --sampled, one draw of 10,000
    clients per strategy besides."""
    common = {
        "rounds": options.rounds,
        "threads": options.threads,
        "scratch": options.scratch and str(options.scratch.resolve()),
    }
    found = [
        {
            "clients": clients,
            "per_round": None,
            "model": options.model,
            "strategy": strategy,
            **common,
        }
        for clients in options.clients
        for strategy in options.strategies
    ]
    if options.sampled:
        found += [{**SAMPLED, "strategy": strategy, **common} for strategy in options.strategies]
    return found


def forecast(options: argparse.Namespace) -> tuple[float, float]:
    """Minutes that all runs take together, roughly, on two quiet cores, and the gigabytes of the
    largest matrix in a file (0: none)."""
    seconds, largest = 0.0, 0.0
    for case in cases(options):
        size, trained = PARAMETERS[case["model"]], case["per_round"] or case["clients"]
        share = size / PARAMETERS["resnet18"]
        each = TRAINING * max(share, 0.1) + AGGREGATION.get(case["strategy"], 0.25) * share
        seconds += START + case["rounds"] * trained * each
        if 4 * size * trained > IN_MEMORY:
            largest = max(largest, 4e-9 * size * trained)
    return seconds / 60, largest


def check_space(options: argparse.Namespace, gigabytes: float) -> None:
    """Exit with code 2 where a matrix will not fit into its folder: an hour before it is needed."""
    folder = options.scratch or Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        report.refuse(
            f"--scratch={folder}: {gigabytes:.0f} GB are needed for the largest matrix, "
            f"{free:.0f} GB are free; give another folder, or fewer --clients"
        )


def measure_all(options: argparse.Namespace) -> list[tuple[dict[str, Any], Measurement]]:
    """One fresh process per case; one folder of images per number of clients."""
    out = []
    for case in cases(options):
        with tempfile.TemporaryDirectory(prefix="fedrobust-benchmark-") as folder:
            archive = Path(folder) / "images.npz"
            images = write_images(archive, case["clients"])
            settings = {**case, **images, "archive": str(archive)}
            measured = run_task(
                "scale",
                settings,
                timeout=options.timeout,
                environment=environment(options.threads, folder),
            )
        out.append((case, measured))
        report.say(f"{title(case)}: {measured.failure or f'{measured.wall:.0f} s'}")
        if measured.failure:
            report.say("\n".join(f"    {line}" for line in split_lines(measured.output)[-15:]))
    return out


def write_images(path: Path, clients: int) -> dict[str, int]:
    """The archive for so many clients, with the server's root images (per class) and proxy images,
    of which there are returned. Few clients have too few training images for many."""
    root, proxy = (4, 64) if clients >= 100 else (1, 8)
    train = TRAIN * clients + CLASSES * root + proxy
    write_archive(path, {"train": train, "val": clients, "test": clients}, SIZE, CLASSES)
    return {"size": SIZE, "root": root, "proxy": proxy}


def title(case: Mapping[str, Any]) -> str:
    """A case in words."""
    chosen = "" if case["per_round"] is None else f", {case['per_round']} a round"
    return f"{case['strategy']}, {case['model']}, {case['clients']} clients{chosen}"


def draw(path: Path, results: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]]) -> None:
    """A curve per strategy for every figure, over the number of clients."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 10), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(3, 3).flat
    for (name, label), axes in zip(FIGURES.items(), places, strict=True):
        for strategy in dict.fromkeys(case["strategy"] for case, _ in results):
            points = sorted(
                (case["clients"], values[name])
                for case, values in results
                if case["strategy"] == strategy
            )
            axes.plot(*zip(*points, strict=True), marker="o", label=strategy)
        axes.margins(y=0.1)
        axes.set(xlabel="clients", ylabel=label, ylim=(0, None))
    figure.axes[0].legend()
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        report.refuse(f"--png={path}: {error.strerror}")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The checked command line; exits with code 2."""
    parser = report.parser("scale", __doc__)
    parser.add_argument(
        "--clients",
        type=report.counts,
        default=[100, 300, 1000],
        help="numbers of clients (100,300,1000)",
    )
    parser.add_argument(
        "--model",
        choices=("small", "resnet18", "resnet50"),
        default="resnet18",
        help="of configs/model (resnet18)",
    )
    parser.add_argument(
        "--strategies",
        type=report.names,
        default=list(STRATEGIES),
        help="of configs/strategy (median,multi_krum,etf_dml)",
    )
    parser.add_argument(
        "--sampled",
        action="store_true",
        help="also 10,000 clients of a small model, of which 100 train in a round",
    )
    parser.add_argument("--rounds", type=report.count, default=2, help="rounds of every run (2)")
    parser.add_argument("--threads", type=report.count, default=1, help="of torch (1)")
    parser.add_argument(
        "--scratch",
        type=Path,
        metavar="FOLDER",
        help="where large matrices are mapped: 45 GB for 1000 x ResNet-18",
    )
    parser.add_argument(
        "--timeout",
        type=report.count,
        default=7200,
        help="seconds after which one run counts as failed (7200)",
    )
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the curves into this file")
    options = parser.parse_args(words)
    if options.quick:
        options.clients, options.model, options.strategies, options.rounds = (
            [20, 40],
            "small",
            ["median"],
            1,
        )
    for option in ("json", "png"):
        report.check_writable(f"--{option}", getattr(options, option))
    if options.scratch is not None and not options.scratch.is_dir():
        report.refuse(f"--scratch={options.scratch}: there is no such folder")
    return options


def main(words: Sequence[str]) -> int:
    """The command line; 1 where a run failed."""
    options, facts = parse(words), report.machine()
    minutes, gigabytes = forecast(options)
    check_space(options, gigabytes)
    report.say(
        f"{len(cases(options))} runs, about {minutes:.0f} minutes on two quiet cores, "
        f"at most {gigabytes:.0f} GB in a file"
    )
    found = measure_all(options)
    results = [(case, figures(measured)) for case, measured in found if not measured.failure]
    rows = [[title(case), *(f"{values[name]:.1f}" for name in FIGURES)] for case, values in results]
    note = (
        f"Times of round {options.rounds} of {options.rounds}. Anonymous memory "
        "and mapped files: their peaks, not at the same moment."
    )
    report.show("Many clients, one process", ["", *FIGURES.values()], rows, note)
    if options.json is not None:
        shown = [{"case": _plain(case), "figures": values} for case, values in results]
        runs = [{"case": _plain(case), **measured.plain()} for case, measured in found]
        report.write_json(
            options.json, report.document("scale", words, facts, summary=shown, runs=runs)
        )
    if options.png is not None and (
        curves := [(case, values) for case, values in results if case["per_round"] is None]
    ):
        draw(options.png, curves)
    return int(any(measured.failure for _, measured in found))


def _plain(case: Mapping[str, Any]) -> dict[str, Any]:
    """The case without the name of a folder."""
    return {name: value for name, value in case.items() if name != "scratch"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
