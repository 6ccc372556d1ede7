"""The README's first command on several seeds: seconds from start to end, the rule's share of a
round, how good its clean twin becomes, and how often distillation was kept.

Threads and engine are the command's own; nothing is pinned. Every run has a cache of its own, so
that no twin and no images are there before.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import report
from benchmarks.common.measure import Measurement, run_fresh
from fedrobust.utils.foreign_text import split_lines

COMMAND = ("num_clients=10", "poisoned=3")
QUICK = ("experiment=smoke", "num_clients=3", "poisoned=1", "rounds=1")
STAGES = ("train", "aggregate", "evaluate")
# seconds by the clock, share of a round in percent, balanced accuracy in percent
MOST_SECONDS, MOST_SHARE, LEAST_ACCURACY = 240.0, 15.0, 85.0


def start(seed: int, options: argparse.Namespace, folder: Path) -> Measurement:
    """One run in a fresh process."""
    words = [*(QUICK if options.quick else COMMAND), f"seed={seed}", f"hydra.run.dir={folder}"]
    environment = {"FEDROBUST_CACHE": str(folder.with_name(f"{folder.name}-cache"))}
    return run_fresh(
        [sys.executable, "-m", "fedrobust.simulate", *words],
        timeout=options.timeout,
        environment=environment,
    )


def read_rounds(path: Path) -> list[Mapping[str, Any]]:
    """The rounds in which clients trained."""
    lines = [json.loads(line) for line in split_lines(path.read_text(encoding="utf-8"))]
    return [line for line in lines if line["round"] > 0]


def figures(folder: Path, measured: Measurement) -> dict[str, float]:
    """What counts of one finished run and its clean twin."""
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    rounds = read_rounds(folder / "rounds.jsonl") + read_rounds(folder / "twin_rounds.jsonl")
    seconds = {name: sum(one["seconds"].get(name, 0.0) for one in rounds) for name in STAGES}
    accuracy = {name: one["balanced_accuracy"] for name, one in found["evaluations"].items()}
    detection = found["detection"] or {}
    return {
        "wall": measured.wall,
        "cpu": measured.cpu,
        "run": found["timing"]["run"],
        "twin": found["timing"]["twin"],
        "round": sum(seconds.values()) / len(rounds),
        "share": 100 * seconds["aggregate"] / sum(seconds.values()),
        "twin_accuracy": accuracy["twin_clean"],
        "accuracy": accuracy["clean"],
        "kept": sum(one["extras"].get("fallbacks", 1) == 0 for one in rounds),
        "rounds": len(rounds),
        "precision": detection.get("precision") or 0.0,
        "recall": detection.get("recall") or 0.0,
    }


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The checked command line; exits with code 2."""
    parser = report.parser("first_command", __doc__)
    parser.add_argument("--seeds", type=report.count, default=3, help="seeds 0, 1, ... (3)")
    parser.add_argument(
        "--timeout",
        type=report.count,
        default=1800,
        help="seconds after which one run counts as failed (1800)",
    )
    options = parser.parse_args(words)
    report.check_writable("--json", options.json)
    if options.quick:
        options.seeds = 1
    return options


def show(found: Mapping[int, Mapping[str, float]]) -> None:
    """One row a seed, and the targets."""
    rows = [
        [
            str(seed),
            f"{one['wall']:.0f}",
            f"{one['cpu']:.0f}",
            f"{one['run']:.0f} + {one['twin']:.0f}",
            f"{one['round']:.1f}",
            f"{one['share']:.1f}",
            f"{one['twin_accuracy']:.1f}",
            f"{one['accuracy']:.1f}",
            f"{one['kept']:.0f} of {one['rounds']:.0f}",
            f"{one['precision']:.0f} / {one['recall']:.0f}",
        ]
        for seed, one in found.items()
    ]
    report.show(
        "The first command",
        [
            *("seed", "wall s", "CPU s", "run + twin s", "s a round", "rule's share %"),
            *("twin balanced %", "run balanced %", "distillation kept", "detection P / R %"),
        ],
        rows,
        f"Targets: at most {MOST_SECONDS:g} s and {MOST_SHARE:g} % of a round, twin at least "
        f"{LEAST_ACCURACY:g} %.",
    )


def main(words: Sequence[str]) -> int:
    """The command line; 1 where a run failed."""
    options, facts = parse(words), report.machine()
    found: dict[int, dict[str, float]] = {}
    failures: dict[int, str] = {}
    with tempfile.TemporaryDirectory(prefix="fedrobust-benchmark-") as place:
        for seed in range(options.seeds):
            folder = Path(place) / f"seed{seed}"
            measured = start(seed, options, folder)
            if measured.failure:
                print(measured.output, file=sys.stderr)
                failures[seed] = measured.failure
                continue
            found[seed] = figures(folder, measured)
            report.say(f"seed {seed}: {measured.wall:.0f} s")
    show(found)
    if options.json is not None:
        parts: dict[str, Any] = {"seeds": found, "failures": failures}
        report.write_json(options.json, report.document("first_command", words, facts, **parts))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
