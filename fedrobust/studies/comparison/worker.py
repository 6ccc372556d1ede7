"""A process that runs one cell after the other:
`python -m fedrobust.studies.comparison.worker <folder of all cells>`.

Each line on standard input is an order, {"cell": its folder's name, "config": its settings,
"pictures": whether its page shows images, "path": the folders in which its starter finds modules}.
Answers are lines on standard output: {"begun": true}, and {"last": whether the process ends now}
once the cell is finished. All that a run prints goes into its run.log. A cell that fails ends the
process, with the exit code of `fedrobust.simulate`. The end of standard input ends the process, a
run like Ctrl-C: its starter wants it to stop, or is gone itself. A folder that holds the beginnings
of a run is taken up again.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from fedrobust.reporting.filenames import MANIFEST
from fedrobust.runtime import resume
from fedrobust.runtime.simulation import resume_job, run_job
from fedrobust.studies.comparison.isolation import NewProcess
from fedrobust.studies.comparison.pool import BEGUN, LAST, LOG
from fedrobust.utils.cli import explain
from fedrobust.utils.files import write_text
from fedrobust.utils.machine import memory, peak_memory

COST = "cost.json"
# without Python's buffers: a thread that waits in them cannot be left behind at the end
INPUT, OUTPUT, ERRORS = 0, 1, 2
KILOBYTE = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
MOST_CELLS = 100  # of one process
MOST_GROWTH = 1e9  # bytes that a process may keep beyond what it kept after its first cell


def run(config: Mapping[str, Any], folder: Path, *, pictures: bool = True) -> None:
    """The run of this configuration from the start or from its last checkpoint, then what it cost.
    Raises what the job raises."""
    started = perf_counter()
    if resume.is_finished(folder):
        return  # by a process that outlived its command for a moment
    if (folder / MANIFEST).exists():
        found = resume.Resumption(folder, resume.read_manifest(folder))
        resume_job(found, pictures=pictures)
    else:
        # as if the process were the cell's own
        run_job(config, folder, [sys.argv[0], str(folder)], pictures=pictures)
    write_text(
        folder / COST,
        json.dumps(measure_cost(perf_counter() - started), indent=2, sort_keys=True) + "\n",
    )


def measure_cost(seconds: float) -> dict[str, float | None]:
    """Cost of a cell: seconds, peak memory in bytes (of this process, or of its largest child that
    has ended; Ray's workers are not its children), peak of the GPU's memory that torch held (None
    without a GPU)."""
    own, children = (
        resource.getrusage(who).ru_maxrss * KILOBYTE
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    gpu = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
    peak = max(peak_memory() or own, children)
    return {"seconds": seconds, "peak_memory": peak, "peak_gpu_memory": gpu}


class Orders(threading.Thread):
    """Reads the orders; at the end of the input it interrupts the main thread."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        rest = b""
        while piece := os.read(INPUT, 1 << 16):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._orders.put(line)
        main = threading.main_thread().ident
        assert main is not None
        # to this very thread, which may be waiting for an order
        signal.pthread_kill(main, signal.SIGINT)

    def next(self) -> dict[str, Any]:
        """The next order. Raises KeyboardInterrupt where there is none."""
        order: dict[str, Any] = json.loads(self._orders.get())
        return order


class Worker:
    """The process. folder: where all cells' folders are; answers: a file descriptor."""

    def __init__(self, folder: Path, answers: int) -> None:
        self._folder, self._answers = folder, answers
        self._new, self._threads = NewProcess(), threading.active_count()
        self._cells, self._first_memory = 0, 0

    def serve(self, order: Mapping[str, Any]) -> bool:
        """Run the cell of an order. Returns whether it was the last one. Raises what the job
        raises."""
        self.answer({BEGUN: True})
        place, config = self._folder / order["cell"], order["config"]
        sys.path.extend(one for one in order["path"] if one not in sys.path)
        with _printing_into(place / LOG), self._new.again():
            run(config, place, pictures=order["pictures"])
        self._cells += 1
        return self._is_worn_out() or not config["engine"]["_target_"].endswith("inline_engine")

    def answer(self, values: Mapping[str, bool]) -> None:
        """Tell the starter how the cell stands."""
        os.write(self._answers, json.dumps(values).encode() + b"\n")

    def _is_worn_out(self) -> bool:
        """Whether a new process should take over: after many cells, or where one has left threads
        or much memory behind. (So it should after an engine with processes of its own.)"""
        now = memory() or 0
        self._first_memory = self._first_memory or now
        return (
            self._cells >= MOST_CELLS
            or threading.active_count() > self._threads
            or now > self._first_memory + MOST_GROWTH
        )


@contextmanager
def _printing_into(log: Path) -> Iterator[None]:
    """All output of this process, that of libraries in C included, goes into this file, and what
    follows until the next one."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(file, OUTPUT)
    os.dup2(file, ERRORS)
    os.close(file)
    try:
        yield
    finally:
        sys.stdout.flush()


def main() -> None:
    """The process; its exit code is 0, or that of `fedrobust.simulate` for the cell that failed."""
    # a shell starts what runs in its background with interrupts ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    busy = False
    try:
        answers = os.dup(OUTPUT)
        os.dup2(ERRORS, OUTPUT)
        orders = Orders()
        worker = Worker(Path(sys.argv[1]), answers)
        while True:
            order = orders.next()
            busy = True
            if last := worker.serve(order):
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends already
            worker.answer({LAST: last})
            if last:
                return
            busy = False
    except KeyboardInterrupt:
        if busy:
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
