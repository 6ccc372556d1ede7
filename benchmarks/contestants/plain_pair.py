"""The ceiling of two workers on this machine: two plain loops side by side, in a process each, with
half of the clients and of the validation images each. They exchange nothing, and wait for each
other at the end of every round only."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

import torch

from benchmarks.common.work import Work, shards
from benchmarks.contestants import plain_loop


def run(work: Work, rule: str, mark: Callable[[int], None]) -> dict[str, float]:
    """As `plain_loop.run`, with the counts of both loops together and the mean of their results."""
    start = multiprocessing.get_context("spawn")
    barrier, (ours, theirs) = start.Barrier(2), start.Pipe(duplex=False)
    other = start.Process(target=_run_other, args=(work.text(), barrier, theirs), daemon=True)
    other.start()
    theirs.close()  # so that the other's end is heard
    try:
        first = _run_half(work, 0, barrier, mark)
        second: dict[str, float] = ours.recv()
    finally:
        other.join()
    return {
        name: first[name] + second[name] if name in work.done else (first[name] + second[name]) / 2
        for name in first
    }


def _run_other(text: str, barrier: Barrier, answer: Connection) -> None:
    """The second loop, in its own process."""
    work = Work.parse(text)
    torch.set_num_threads(work.threads)
    answer.send(_run_half(work, 1, barrier, lambda number: None))


def _run_half(
    work: Work, half: int, barrier: Barrier, mark: Callable[[int], None]
) -> dict[str, float]:
    """One of the loops; while `mark` looks at the end of a round, both stand still."""

    def mark_both(number: int) -> None:
        barrier.wait()
        mark(number)
        barrier.wait()

    clients, validation = shards(work)
    index = torch.arange(half, len(validation), 2, device=work.device)
    try:
        return plain_loop.average(work, clients[half::2], validation.take(index), mark_both)
    except BaseException:
        barrier.abort()
        raise
