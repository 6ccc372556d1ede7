"""The server's part of a round of etf_dml: trust alone, with ensemble distillation, with mutual
learning, for N members.

The measures are what cannot be saved: N plain inference passes over the proxy images, and the
members' own training of one epoch, beside which the rule's step has its share of a round.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import report
from benchmarks.common.measure import Measurement, run_task
from benchmarks.common.report import Spread
from benchmarks.common.work import environment, write_archive

MODELS = ("small", "resnet18", "resnet50")
ROOT_IMAGES, CLASSES = 8, 10  # root images per class


def cases(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All combinations of sizes."""
    common = {
        "model": options.model,
        "size": options.size,
        "device": options.device,
        "repeats": options.repeats,
        "threads": options.threads,
        "images": options.images,
    }
    return [
        {"members": members, "proxy": proxy, **common}
        for members in options.members
        for proxy in options.proxy
    ]


def measure(case: dict[str, Any], timeout: float) -> Measurement:
    """One case in a fresh process, with an archive of random images of its own."""
    with tempfile.TemporaryDirectory(prefix="fedrobust-benchmark-") as folder:
        archive = Path(folder) / "images.npz"
        root = min(ROOT_IMAGES, max(1, case["proxy"] // 16))
        # the server may have half of them
        own = case["proxy"] + CLASSES * root
        train = max(2 * own, own + case["members"] * case.get("images", CLASSES))
        write_archive(
            archive,
            {"train": train, "val": case["members"], "test": case["members"]},
            case["size"],
            CLASSES,
        )
        settings = {**case, "archive": str(archive), "root": root}
        return run_task(
            "dml",
            settings,
            timeout=timeout,
            environment=environment(case["threads"], folder, case["device"]),
        )


def summary(measured: Measurement) -> dict[str, dict[str, Spread]]:
    """{part: {"seconds", "ratio", "share"}}: the ratio to the plain passes of the same repeat, and
    the share of a round that is this part and the training."""
    seconds: dict[str, list[float]] = measured.result["seconds"]

    def beside(name: str, measure: Callable[[float, float], float], values: list[float]) -> Spread:
        return Spread.of([measure(*pair) for pair in zip(values, seconds[name], strict=True)])

    return {
        name: {
            "seconds": Spread.of(values),
            "ratio": beside("passes", lambda value, plain: value / max(plain, 1e-9), values),
            "share": beside(
                "training", lambda value, trained: value / max(value + trained, 1e-9), values
            ),
        }
        for name, values in seconds.items()
    }


def title(case: dict[str, Any]) -> str:
    """A case in words."""
    return (
        f"{case['members']} x {case['model']}, {case['proxy']} proxy images of "
        f"{case['size']} px, {case['device']}"
    )


def show(case: dict[str, Any], measured: Measurement) -> None:
    """A table per case."""
    words = {
        "training": "training of the members",
        "passes": "plain passes",
        "trust": "trust",
        "ensemble": "trust and ensemble distillation",
        "mutual": "trust and mutual learning",
    }
    kept: dict[str, int] = measured.result["kept"]
    rows = [
        [
            words[name],
            values["seconds"].text(),
            values["ratio"].text(),
            values["share"].text() if name in kept else "",
            str(kept.get(name, "")),
        ]
        for name, values in summary(measured).items()
    ]
    report.show(
        title(case),
        ["", "s", "to plain passes", "of a round", "members with weight"],
        rows,
        "Median [least, most] over the repeats.",
    )


def plain(case: dict[str, Any], measured: Measurement) -> dict[str, Any]:
    """JSON values of one case."""
    table = {} if measured.failure else summary(measured)
    shown = {
        name: {key: spread._asdict() for key, spread in values.items()}
        for name, values in table.items()
    }
    return {"case": case, "summary": shown, "run": measured.plain()}


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The checked command line; exits with code 2."""
    parser = report.parser("dml", __doc__)
    parser.add_argument(
        "--members", type=report.counts, default=[10], help="numbers of members (10)"
    )
    parser.add_argument(
        "--proxy",
        type=report.counts,
        default=[128, 1000],
        help="numbers of proxy images (128,1000)",
    )
    parser.add_argument(
        "--model", choices=MODELS, default="resnet18", help="of configs/model (resnet18)"
    )
    parser.add_argument(
        "--size", type=report.count, default=32, help="pixels of the images, square (32)"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where the server computes (cpu)"
    )
    parser.add_argument(
        "--repeats", type=report.count, default=3, help="calls of everything in a process (3)"
    )
    parser.add_argument(
        "--images",
        type=report.count,
        default=168,
        help="training images of each member (168, the mean of the first command)",
    )
    parser.add_argument("--threads", type=report.count, default=1, help="of torch (1)")
    parser.add_argument(
        "--timeout",
        type=report.count,
        default=3600,
        help="seconds after which one case counts as failed (3600)",
    )
    options = parser.parse_args(words)
    report.check_writable("--json", options.json)
    if options.quick:
        options.members, options.proxy, options.model, options.size = [3], [16], "small", 16
        options.repeats, options.images = 1, 16
    return options


def main(words: Sequence[str]) -> int:
    """The command line; 1 where a case failed."""
    options, facts = parse(words), report.machine()
    found = []
    for case in cases(options):
        measured = measure(case, options.timeout)
        found.append((case, measured))
        if measured.failure:
            print(measured.output, file=sys.stderr)
            report.say(f"{title(case)}: failed: {measured.failure}")
        else:
            show(case, measured)
    if options.json is not None:
        report.write_json(
            options.json, report.document("dml", words, facts, cases=[plain(*one) for one in found])
        )
    return int(any(measured.failure for _, measured in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
