"""Images a second of every purifier, beside loops over scikit-image on one CPU core.

scikit-image is optional (`pip install scikit-image`): without it the loops are left out, and said
to be.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from benchmarks.common import report
from benchmarks.common.measure import Measurement, run_task
from benchmarks.common.report import Spread
from benchmarks.common.work import environment


def cases(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One for each size. Of large images fewer are taken: as many pixels as `--images` images of 28
    px have, at least four."""
    loops = find_spec("skimage") is not None
    out = []
    for size in options.size:
        images = max(4, options.images * 28**2 // max(size, 28) ** 2)
        common = {"device": options.device, "repeats": options.repeats, "threads": options.threads}
        out.append(
            {
                "size": size,
                "images": images,
                "loop_images": min(images, options.loop) if loops else 0,
                **common,
            }
        )
    return out


def measure(case: dict[str, Any], timeout: float) -> Measurement:
    """One case in a fresh process."""
    with tempfile.TemporaryDirectory(prefix="fedrobust-benchmark-") as folder:
        return run_task(
            "purification",
            case,
            timeout=timeout,
            environment=environment(case["threads"], folder, case["device"]),
        )


def summary(measured: Measurement) -> dict[str, dict[str, Spread]]:
    """{purifier: {"speed"} and, where a loop was measured, {"loop", "faster", "cpu_faster"}}:
    images a second, and how many times as fast ours is as the loop of the same repeat, by the clock
    and by the processor's own time, which other work disturbs less. A loop that does a part of a
    purifier's work (`mdda: denoising alone`) has a row of its own, beside all of ours."""
    ours, loops = measured.result["ours"], measured.result["loops"]
    out = {
        name: {"speed": Spread.of([1 / clock for clock, _ in times])}
        for name, times in ours.items()
    }
    for name, loop in loops.items():
        times = ours[name.split(":")[0]]
        pairs = list(zip(times, loop, strict=True))
        out[name] = {
            "speed": Spread.of([1 / clock for clock, _ in times]),
            "loop": Spread.of([1 / clock for clock, _ in loop]),
            "faster": Spread.of([theirs[0] / mine[0] for mine, theirs in pairs]),
            "cpu_faster": Spread.of([theirs[1] / max(mine[1], 1e-9) for mine, theirs in pairs]),
        }
    return out


def title(case: dict[str, Any]) -> str:
    """A case in words."""
    return (
        f"{case['images']} RGB images of {case['size']} px, {case['device']}, "
        f"torch threads: {case['threads']}"
    )


def show(case: dict[str, Any], measured: Measurement) -> None:
    """A table per case."""
    columns = (("speed", 0), ("loop", 1), ("faster", 1), ("cpu_faster", 1))
    rows = [
        [name, *(values[key].text(digits) if key in values else "" for key, digits in columns)]
        for name, values in summary(measured).items()
    ]
    note = (
        "Median [least, most] over the repeats; the loops do the same image by "
        "image on one core, at scikit-image's tolerance."
    )
    if not case["loop_images"]:
        note = (
            "Median [least, most] over the repeats; scikit-image is not "
            "installed, its loops are left out."
        )
    elif measured.result["energy"] is not None:
        note += (
            f" What it minimises (tv): ours {measured.result['energy']:.4f} times "
            "the loop's; below 1 is nearer to the minimum."
        )
    if measured.result["traffic"] is not None:
        moved = measured.result["traffic"]
        note += (
            f" The steps of mdda's denoising move {moved['steps']:.0f} GB/s, a plain loop over as "
            f"much memory {moved['stream']:.0f} GB/s (CPU time)."
        )
    report.show(
        title(case),
        ["purifier", "images/s", "scikit-image loop, images/s", "times as fast", "by CPU time"],
        rows,
        note,
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
    parser = report.parser("purification", __doc__)
    parser.add_argument(
        "--size", type=report.counts, default=[28, 64, 224], help="pixels a side (28,64,224)"
    )
    parser.add_argument(
        "--images",
        type=report.count,
        default=512,
        help="of 28 px; of larger ones as many pixels (512)",
    )
    parser.add_argument(
        "--loop",
        type=report.count,
        default=32,
        help="at most so many images go through the scikit-image loops (32)",
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where our purifiers compute (cpu)"
    )
    parser.add_argument(
        "--repeats", type=report.count, default=3, help="calls of everything in a process (3)"
    )
    parser.add_argument("--threads", type=report.count, default=1, help="of torch (1)")
    parser.add_argument(
        "--timeout",
        type=report.count,
        default=1800,
        help="seconds after which one case counts as failed (1800)",
    )
    options = parser.parse_args(words)
    report.check_writable("--json", options.json)
    if options.quick:
        options.size, options.images, options.loop, options.repeats = [12], 6, 2, 1
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
            options.json,
            report.document("purification", words, facts, cases=[plain(*one) for one in found]),
        )
    return int(any(measured.failure for _, measured in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
