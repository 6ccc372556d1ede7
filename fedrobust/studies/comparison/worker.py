"""One cell in a process of its own: `python -m fedrobust.studies.comparison.worker <folder>`, its
settings as a line on standard input.

The end of standard input ends the run like Ctrl-C: its starter wants it to stop, or is gone
itself. A folder that holds the beginnings of the run is taken up again.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from fedrobust.reporting.filenames import MANIFEST
from fedrobust.runtime import resume
from fedrobust.runtime.simulation import resume_job, run_job
from fedrobust.utils.cli import explain
from fedrobust.utils.files import write_text

COST = "cost.json"
# read without Python's buffers: a thread that waits in them cannot be left behind at the end
INPUT = 0
KILOBYTE = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def run(config: Mapping[str, Any], folder: Path) -> None:
    """The run of this configuration from the start or from its last checkpoint, then what it cost.
    Raises what the job raises."""
    started = perf_counter()
    if resume.is_finished(folder):
        return  # by a process that outlived its command for a moment
    if (folder / MANIFEST).exists():
        resume_job(resume.Resumption(folder, resume.read_manifest(folder)))
    else:
        run_job(config, folder)
    write_text(
        folder / COST,
        json.dumps(measure_cost(perf_counter() - started), indent=2, sort_keys=True) + "\n",
    )


def measure_cost(seconds: float) -> dict[str, float | None]:
    """Cost of this process: seconds, peak memory in bytes (its own and that of its largest child
    that has ended; Ray's workers are not its children), peak of the GPU's memory that torch held
    (None without a GPU)."""
    own, children = (
        resource.getrusage(who).ru_maxrss * KILOBYTE
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    gpu = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
    return {"seconds": seconds, "peak_memory": max(own, children), "peak_gpu_memory": gpu}


def _first_line() -> str:
    text = b""
    while not text.endswith(b"\n"):
        piece = os.read(INPUT, 1 << 16)
        if not piece:
            raise KeyboardInterrupt
        text += piece
    return text.decode("utf-8")


def _watch() -> None:
    while os.read(INPUT, 1 << 16):
        pass
    os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    """The process of a cell; its exit code is that of `fedrobust.simulate`."""
    # a shell starts what runs in its background with interrupts ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        config = json.loads(_first_line())
        threading.Thread(target=_watch, daemon=True).start()
        run(config, Path(sys.argv[1]))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line, code = explain(error)
        if line is None:
            traceback.print_exception(error)
        print(f"error: {line or f'{type(error).__name__}: {error}'}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
