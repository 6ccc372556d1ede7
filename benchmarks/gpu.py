"""fedrobust against a plain loop on one GPU: images a second in training, with clients side by
side, and the server's DML.

ResNet-50, bfloat16 and channels last on both sides, a round of plain SGD epochs and the evaluation
of the global model after it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import dml
from benchmarks.common import report
from benchmarks.common.measure import Measurement, run_fresh
from benchmarks.common.report import Spread
from benchmarks.common.work import Work, write_images
from benchmarks.engines import Entry, check_work, measure, steady
from fedrobust.utils.foreign_text import split_lines

ASK = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 3)"
VALIDATION = 16  # images of each client, on which the global model is evaluated together


@dataclass(frozen=True, slots=True)
class Lane:
    """A way to train: the plain loop, inline, or Ray with so many workers on the one GPU."""

    name: str
    workers: int = 1

    @property
    def title(self) -> str:
        return {"plain": "plain loop", "inline": "inline"}.get(
            self.name, f"ray, {self.workers} on the GPU"
        )


def lanes(options: argparse.Namespace) -> list[Lane]:
    """Those that the command line asks for."""
    return [Lane("plain"), Lane("inline"), *(Lane("ray", number) for number in options.workers)]


def work_of(options: argparse.Namespace, size: int, lane: Lane, folder: str) -> Work:
    """The work at one size of images."""
    model, validation = ("small", 4) if options.quick else ("resnet50", VALIDATION)
    return Work(
        f"gpu{size}",
        model,
        options.images,
        folder,
        clients=options.clients,
        rounds=options.rounds,
        validation=validation,
        batch=options.batch,
        size=size,
        threads=options.threads,
        workers=lane.workers,
        device=options.device,
    )


def measure_size(options: argparse.Namespace, size: int) -> dict[Lane, list[Measurement]]:
    """All lanes at one size, the repeats interleaved."""
    found: dict[Lane, list[Measurement]] = {lane: [] for lane in lanes(options)}
    with tempfile.TemporaryDirectory(prefix="fedrobust-benchmark-") as folder:
        write_images(work_of(options, size, Lane("plain"), folder))
        for repeat in range(options.repeats):
            for lane in lanes(options):
                work = work_of(options, size, lane, folder)
                measured = check_work(
                    measure(work, Entry(lane.name, "fedavg"), options.timeout), work
                )
                found[lane].append(measured)
                report.say(
                    f"{size} px {repeat + 1}/{options.repeats} {lane.title}: "
                    f"{measured.failure or f'{measured.wall:.1f} s'}"
                )
                if measured.failure:
                    report.say(
                        "\n".join(f"    {line}" for line in split_lines(measured.output)[-15:])
                    )
    return found


def speeds(
    found: Mapping[Lane, Sequence[Measurement]], images: int
) -> dict[str, dict[str, Spread]]:
    """{lane: images a second in rounds from the second on; ratio to the plain loop of the same
    repeat (1: as fast)}."""
    seconds = {
        lane: {n: steady(one)["wall"] for n, one in enumerate(many) if not one.failure}
        for lane, many in found.items()
    }
    plain = seconds[Lane("plain")]
    return {
        lane.title: {
            "images": Spread.of([images / value for value in mine.values()]),
            "ratio": Spread.of(
                [plain[repeat] / value for repeat, value in mine.items() if repeat in plain]
            ),
            "round": Spread.of(list(mine.values())),
        }
        for lane, mine in seconds.items()
        if set(mine) & set(plain)
    }


def measure_dml(options: argparse.Namespace, size: int) -> tuple[dict[str, Any], Measurement]:
    """The server's part of etf_dml with as many members and proxy images as the command line
    says."""
    model = "small" if options.quick else "resnet50"
    case = {
        "members": options.members,
        "proxy": options.proxy,
        "model": model,
        "size": size,
        "device": options.device,
    }
    case |= {"repeats": options.repeats, "threads": options.threads}
    measured = dml.measure(case, options.timeout)
    if measured.failure:
        report.say(f"{dml.title(case)}: failed: {measured.failure}\n{measured.output}")
    return case, measured


def show(
    size: int,
    table: Mapping[str, Mapping[str, Spread]],
    case: dict[str, Any],
    measured: Measurement,
) -> None:
    """A table of the lanes and one of the server's part, against a round of the plain loop."""
    rows = [
        [name, values["images"].text(0), values["ratio"].text(), values["round"].text(2)]
        for name, values in table.items()
    ]
    note = (
        "Median [least, most] over the repeats; rounds from the second on, with "
        "the evaluation of the global model."
    )
    report.show(f"{size} px", ["", "images/s", "speed to plain", "s per round"], rows, note)
    if measured.failure or "plain loop" not in table:
        return
    dml.show(case, measured)
    round_seconds = table["plain loop"]["round"].median
    for name, values in dml.summary(measured).items():
        print(
            f"{name}: {values['seconds'].median / round_seconds:.2f} of a round of the plain loop"
        )


def has_gpu() -> bool:
    """Asked of torch, in a process of its own."""
    return not run_fresh([sys.executable, "-c", ASK], timeout=300).failure


# with --quick
QUICK = {
    **{"clients": 3, "images": 8, "batch": 4, "rounds": 2, "repeats": 1},
    **{"members": 3, "proxy": 16},
}


def _add_work(parser: argparse.ArgumentParser) -> None:
    """What is measured: images, clients and members."""
    parser.add_argument(
        "--size",
        type=report.counts,
        default=[224, 64],
        help="pixels of the images, square (224,64)",
    )
    parser.add_argument(
        "--workers",
        type=report.counts,
        help="Ray workers that share the GPU (1,2,4; with --quick none)",
    )
    parser.add_argument("--clients", type=report.count, default=8, help="clients (8)")
    parser.add_argument(
        "--images", type=report.count, default=256, help="training images of each client (256)"
    )
    parser.add_argument("--batch", type=report.count, default=32, help="images in a batch (32)")
    parser.add_argument(
        "--rounds",
        type=report.count,
        default=3,
        help="rounds, of which the first does not count (3)",
    )
    parser.add_argument(
        "--members", type=report.count, default=10, help="members of the server's DML (10)"
    )
    parser.add_argument("--proxy", type=report.count, default=1000, help="its proxy images (1000)")


def _add_procedure(parser: argparse.ArgumentParser) -> None:
    """How it is measured."""
    parser.add_argument(
        "--repeats",
        type=report.count,
        default=3,
        help="measurements of everything, interleaved (3)",
    )
    parser.add_argument(
        "--threads", type=report.count, default=1, help="of torch in every process (1)"
    )
    parser.add_argument(
        "--timeout",
        type=report.count,
        default=1800,
        help="seconds after which one measurement counts as failed (1800)",
    )


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The checked command line; exits with code 2."""
    parser = report.parser("gpu", __doc__)
    parser.add_argument(
        "--tiny",
        action="store_true",
        dest="quick",
        help="the same as --quick; with --device cpu it needs no GPU",
    )
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu is for trying this program out (cuda)",
    )
    _add_work(parser)
    _add_procedure(parser)
    options = parser.parse_args(words)
    if options.rounds < 2:
        report.refuse("--rounds=1: must be at least 2, since the first does not count")
    report.check_writable("--json", options.json)
    if options.workers is None:
        options.workers = [] if options.quick else [1, 2, 4]
    if options.quick:
        vars(options).update(QUICK)
    return options


def main(words: Sequence[str]) -> int:
    """The command line; 1 where something failed, 2 without a GPU."""
    options, facts = parse(words), report.machine()
    if options.device == "cuda" and not has_gpu():
        print("no GPU found", file=sys.stderr)
        return 2
    parts, failed = [], False
    for size in options.size:
        found = measure_size(options, size)
        case, measured = measure_dml(options, size)
        table = speeds(found, options.clients * options.images)
        show(size, table, case, measured)
        failed |= bool(measured.failure) or any(
            one.failure for many in found.values() for one in many
        )
        parts.append(
            {
                "size": size,
                "speeds": {
                    name: {key: spread._asdict() for key, spread in values.items()}
                    for name, values in table.items()
                },
                "runs": {lane.title: [one.plain() for one in many] for lane, many in found.items()},
                "dml": dml.plain(case, measured),
            }
        )
    if options.json is not None:
        report.write_json(options.json, report.document("gpu", words, facts, sizes=parts))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
