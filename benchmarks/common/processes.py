"""CPU time and memory of a tree of processes, on Linux.

Limits. A process without a waiting parent is counted up to the last sample, at most
`Watch.interval` before its end, and one that lived between two looks not at all. A peak of memory
between two looks is not seen. A look walks the page tables of the whole tree, so looks are spaced
such that they take a twentieth of the time; their own CPU time is not counted.
"""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from fedrobust.utils.foreign_text import split_lines

LIBC = ctypes.CDLL(None, use_errno=True)
SET_CHILD_SUBREAPER = 36  # of prctl(2)
LINGER_SECONDS = 15.0  # for what a command leaves behind, before it is killed
SHARE = 0.05  # of the time that looking may take


@dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes (10^6 bytes) of a tree: proportional set size, and its parts: anonymous, mapped
    files, shared memory."""

    pss: float = 0.0
    anonymous: float = 0.0
    file: float = 0.0
    shared: float = 0.0

    def __add__(self, other: Memory) -> Memory:
        return Memory(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def peak(self, other: Memory) -> Memory:
        """The greater of each part: parts of a peak need not have been reached together."""
        return Memory(*(max(getattr(self, name), getattr(other, name)) for name in self.__slots__))


def children() -> frozenset[int]:
    """The process ids of this process's children."""
    return frozenset(one.pid for one in psutil.Process().children())


def adopt_orphans() -> None:
    """Descendants whose parent ends (daemons) become children of this process instead of leaving
    its tree; so it is in `execve` after a fork. Linux only."""
    LIBC.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def read_memory(pid: int) -> Memory:
    """Zeros where it cannot be read, for instance because the process has just ended. (psutil tells
    the proportional set size, but not its parts.)"""
    try:
        lines = split_lines(Path(f"/proc/{pid}/smaps_rollup").read_text())[1:]
    except OSError:
        return Memory()
    kilobytes = {
        name: int(words.split()[0]) for name, _, words in (line.partition(":") for line in lines)
    }
    return Memory(
        *(
            kilobytes.get(name, 0) * 1024 / 1e6
            for name in ("Pss", "Pss_Anon", "Pss_File", "Pss_Shmem")
        )
    )


class Watch:
    """Looks at a process and all its descendants, and remembers what ended ones had used. A process
    that outlives it becomes a child of this process (`adopt_orphans`) and is watched as well;
    `others` are the children that it had before."""

    def __init__(
        self, root: int, others: frozenset[int] = frozenset(), interval: float = 0.2
    ) -> None:
        self.root, self.interval, self._others = root, interval, others
        self.cpu, self.peak, self.since_mark, self.next = 0.0, Memory(), Memory(), time.monotonic()
        self._seen: dict[psutil.Process, float] = {}
        self._alive: list[psutil.Process] = []

    def look(self) -> None:
        """Update the CPU time and the peaks."""
        began = time.monotonic()
        self._find()
        now = sum((read_memory(one.pid) for one in self._alive), Memory())
        self.peak, self.since_mark = self.peak.peak(now), self.since_mark.peak(now)
        took = time.monotonic() - began
        self.next = began + max(self.interval, took / SHARE)

    def _find(self) -> None:
        own = [one for one in psutil.Process().children() if one.pid not in self._others]
        self._alive, waited = [], 0.0
        for one in [*own, *(below for child in own for below in _descendants(child))]:
            with suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                self._alive.append(one)
                self._seen[one] = times.user + times.system
                waited += self._seen[one] + times.children_user + times.children_system
        # Two lower bounds: ended processes as they were last seen, or as their parents, if those
        # waited for them, remember them.
        self.cpu = max(self.cpu, sum(self._seen.values()), waited)

    def settle(self, patience: float = LINGER_SECONDS) -> int:
        """Wait until all descendants have ended, kill those that do not; how many had to be
        killed."""
        deadline = time.monotonic() + patience
        while (living := self._living()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for one in living:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        for one in psutil.Process().children():
            if one.pid != self.root and one in self._alive:
                os.waitpid(one.pid, 0)
        return len(living)

    def _living(self) -> list[psutil.Process]:
        self._find()
        return [one for one in self._alive if one.pid != self.root and not _has_ended(one)]


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True
