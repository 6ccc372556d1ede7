"""The processes of a session, as Linux shows them: to start a program with all its helpers apart,
and to see that none is left."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

PATIENCE_SECONDS = 300.0  # a deadline for a machine that is busy with other things


def wait_until(found, process=None, seconds=PATIENCE_SECONDS, every=0.005):
    """Result of `found` as soon as it is true, asked every so many seconds; the process must not
    end before."""
    limit = time.monotonic() + seconds
    while not (something := found()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(every)
    return something


def alive(session):
    """{process id: command line} of a session's processes, zombies apart."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, _, sid = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(sid) == session and state != "Z":
                found[int(folder.name)] = title(folder.name)
    return found


def title(process):
    """Command line of a process, or what it calls itself; empty once it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return ""


@contextlib.contextmanager
def stopped(process):
    """The process stands still, unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGSTOP)
    try:
        wait_until(lambda: state_of(process) in "tTZX")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def state_of(process):
    """Linux's letter for a process's state, X once there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return "X"


def left_after(session):
    """The processes of a session that do not end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := alive(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def started(command, **settings):
    """The program in a session of its own, of which nothing is left afterwards, in any case."""
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )
    try:
        yield process
    finally:
        for one in alive(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        process.communicate()


def in_new_process(function, *args):
    """Result of the function in a new process. For measurements of memory: what earlier tests
    freed lies in the allocator of this one, and is taken from there unseen."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()
