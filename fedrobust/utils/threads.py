"""The number of threads of a process, and how they wait for each other: one policy for commands,
the server, every engine, and real sites.

The number is OMP_NUM_THREADS, else the CPUs that the process may use: those of its affinity mask,
at most the quota of its control groups. `engine.threads` goes before it. torch, the BLAS of numpy
and scipy, and scikit-learn read the number from the environment, once, when they are loaded;
therefore the package sets it at its own import, before it loads any of them.

torch brings libgomp, GNU's OpenMP. Its threads wait for each other by spinning, by default some
milliseconds long before they sleep: beside a busy neighbour a thread that spins takes the time that
the thread it waits for needs, and a run becomes tens of times slower. GOMP_SPINCOUNT=1000 lets them
spin about as long as falling asleep and waking up take (10 to 50 microseconds), which bridges the
gaps between the operations of a small network. OMP_WAIT_POLICY=PASSIVE says the same to other
OpenMP libraries (those of Intel and LLVM). Neither changes a result by a bit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

NUMBER = "OMP_NUM_THREADS"
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
# how a user may say how OpenMP's threads wait; one of them leaves all of it to the user
SAID_BY_USER = (*WAITING, "KMP_BLOCKTIME")
GROUPS = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")


def set_defaults(environment: MutableMapping[str, str] = os.environ) -> None:
    """Write the policy into the environment, for the libraries of this process and for the
    processes that it starts. What the user has set stays.

    Args:
        environment: that of this process.
    """
    if not any(name in environment for name in SAID_BY_USER):
        environment.update(WAITING)
    environment.setdefault(NUMBER, str(default_threads(environment)))


def default_threads(environment: Mapping[str, str] = os.environ) -> int:
    """The number of threads of a process for which no setting gives one.

    Args:
        environment: that of this process.

    Returns:
        OMP_NUM_THREADS (of a list, as OpenMP allows it for nested regions, the first number);
        without it, or where it is no whole number above 0, `cores`.
    """
    first = environment.get(NUMBER, "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else cores()


def threads_of_each(processes: int) -> int:
    """The number of threads of each of several processes side by side: a share of `cores`, at most
    `default_threads`, at least 1."""
    return min(default_threads(), max(1, cores() // processes))


@contextmanager
def threads_of_children(number: int) -> Iterator[None]:
    """Processes that are started inside get this number of threads in their environment."""
    before = os.environ.get(NUMBER)
    os.environ[NUMBER] = str(number)
    try:
        yield
    finally:
        if before is None:
            del os.environ[NUMBER]
        else:
            os.environ[NUMBER] = before


def cores() -> int:
    """The CPUs that this process may use: those of its affinity mask, at most the quota of its
    control groups, rounded up."""
    in_mask = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    share = quota()
    return in_mask if share is None else max(1, min(in_mask, math.ceil(share)))


def quota(groups: Path = GROUPS, mount: Path = MOUNT) -> float | None:
    """The CPUs that the control groups of this process, and those above them, let it use.

    Args:
        groups: the file that names them, a line for each hierarchy.
        mount: the folder of version 2, which holds the folders of version 1's controllers.

    Returns:
        The smallest quota in CPUs, e.g. 1.5; None without any.
    """
    try:
        lines = groups.read_text(encoding="utf-8").strip().split("\n")
    except (OSError, ValueError):  # no Linux
        return None
    shares = [_read_quota(folder) for line in lines for folder in _group_folders(line, mount)]
    return min((share for share in shares if share is not None), default=None)


def _group_folders(line: str, mount: Path) -> Iterator[Path]:
    """The folders of a group and of those above it: `0::/a/b` (version 2) or `3:cpu,cpuacct:/a/b`
    (version 1)."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return
    # inside a container the path can be that of the host, of which only the mounted part is there
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for base in {mount / controllers, mount / "cpu"} if controllers else {mount}:
        for depth in range(len(parts) + 1):
            yield base.joinpath(*parts[:depth])


def _read_quota(folder: Path) -> float | None:
    """A group's own quota in CPUs: microseconds of computing a period, by those of the period."""
    try:
        if (folder / "cpu.max").exists():
            allowed, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            allowed = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        return int(allowed) / int(period) if int(allowed) > 0 else None
    except (OSError, ValueError):  # not there, or "max"
        return None
