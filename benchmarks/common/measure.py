"""Cost of a command: a fresh process, watched with all that it starts until it ends, with marks
that it sets itself."""

from __future__ import annotations

import json
import os
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common.processes import Memory, Watch, adopt_orphans, children

ROOT = Path(__file__).parents[2]
SOCKET = "FEDROBUST_BENCHMARK_SOCKET"


@dataclass(frozen=True, slots=True)
class Mark:
    """A point in a command's life that the command itself reported. at, resumed: seconds since its
    start, before and after the look; cpu: seconds so far; peak: of memory since the mark before."""

    number: int
    at: float
    resumed: float
    cpu: float
    peak: Memory


@dataclass(frozen=True, slots=True)
class Measurement:
    """One finished command. `failure` is empty if it went well; `left`: processes that had to be
    killed after it."""

    wall: float
    cpu: float
    peak: Memory
    marks: tuple[Mark, ...]
    result: Mapping[str, Any]
    failure: str = ""
    output: str = field(default="", repr=False)
    left: int = 0

    def plain(self) -> dict[str, Any]:
        """JSON values, without the command's output and without the names of this machine's
        folders."""
        values = asdict(self)
        del values["output"]
        return {**values, "failure": re.sub(r"/\S+", "<path>", self.failure)}


class Reporter:
    """The command's side: `mark` waits until the watcher has looked."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    @classmethod
    def from_environment(cls) -> Reporter:
        number = os.environ.get(SOCKET)
        if number is None:
            raise SystemExit(
                "error: this module is started by the benchmarks themselves; see "
                "python -m benchmarks.engines --help"
            )
        link = socket.socket(fileno=int(number))
        link.set_inheritable(False)
        return cls(link)

    def mark(self, number: int) -> None:
        self._send({"mark": number, "at": time.monotonic()})
        self._link.recv(1)

    def result(self, values: Mapping[str, Any]) -> None:
        self._send({"result": values})

    def _send(self, message: Mapping[str, Any]) -> None:
        self._link.sendall(json.dumps(message).encode() + b"\n")


def run_task(
    name: str, settings: Mapping[str, Any], *, timeout: float, environment: Mapping[str, str]
) -> Measurement:
    """A module of `benchmarks.tasks` in a fresh process; its settings name the `threads` of
    torch."""
    command = [sys.executable, "-m", "benchmarks.tasks", name, json.dumps(settings)]
    return run_fresh(command, timeout=timeout, environment=environment)


def run_fresh(
    command: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None
) -> Measurement:
    """Run a command from the checkout's root in a fresh process and measure it. Linux only.

    The environment variable SOCKET tells its `Reporter` the address of this process. timeout:
    seconds, after which all of it is killed and `failure` says so.
    """
    adopt_orphans()
    others = children()
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as output, ours:
        variables = {**os.environ, **(environment or {}), SOCKET: str(theirs.fileno())}
        variables["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
        )
        started = time.monotonic()
        with theirs:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=variables,
                pass_fds=[theirs.fileno()],
                preexec_fn=adopt_orphans,  # noqa: PLW1509  # of code that allocates nothing
            )
        supervision = _Supervision(process, Watch(process.pid, others), ours, started, timeout)
        try:
            return supervision.follow(output)
        except BaseException:
            supervision.kill()
            process.wait()
            raise


class _Supervision:
    """A running command, its watch, and what it reports."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        watch: Watch,
        link: socket.socket,
        started: float,
        timeout: float,
    ) -> None:
        self._process, self._watch, self._link = process, watch, link
        self._started, self._timeout = started, timeout
        self._marks: list[Mark] = []
        self._result: dict[str, Any] = {}
        self._rest = b""

    def follow(self, output: Any) -> Measurement:
        ended = os.pidfd_open(self._process.pid)
        try:
            in_time = self._wait(ended)
        finally:
            os.close(ended)
        wall = time.monotonic() - self._started
        self._watch.look()  # at a zombie, which still has its times
        if not in_time:
            self.kill()
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        left = self._watch.settle()
        output.seek(0)
        text = output.read().decode(errors="replace")
        cpu = max(self._watch.cpu, usage.ru_utime + usage.ru_stime)
        failure = _failure(self._process.returncode, text, None if in_time else self._timeout)
        return Measurement(
            wall, cpu, self._watch.peak, tuple(self._marks), self._result, failure, text, left
        )

    def _wait(self, ended: int) -> bool:
        """Until the command ends; false when its time is up."""
        with selectors.DefaultSelector() as selector:
            selector.register(ended, selectors.EVENT_READ)
            selector.register(self._link, selectors.EVENT_READ)
            while True:
                ready = {
                    key.fileobj
                    for key, _ in selector.select(max(0.0, self._watch.next - time.monotonic()))
                }
                if self._link in ready and not self._listen():
                    selector.unregister(self._link)
                if ended in ready and self._link not in ready:  # what it said last is heard first
                    return True
                if time.monotonic() >= self._watch.next:
                    self._watch.look()
                if time.monotonic() - self._started > self._timeout:
                    return False

    def _listen(self) -> bool:
        """Take in what the command says; false when it has hung up."""
        data = self._link.recv(1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "result" in message:
                self._result = message["result"]
            else:
                self._mark(message["mark"], message["at"])
        return bool(data)

    def _mark(self, number: int, at: float) -> None:
        self._watch.look()
        resumed = time.monotonic() - self._started
        self._marks.append(
            Mark(number, at - self._started, resumed, self._watch.cpu, self._watch.since_mark)
        )
        self._watch.since_mark = Memory()
        self._link.send(b".")

    def kill(self) -> None:
        self._process.kill()
        self._watch.settle(0.0)


def _failure(code: int, text: str, timeout: float | None) -> str:
    """One line, or nothing."""
    if timeout is not None:
        return f"did not end within {timeout:g} s"
    if code == 0:
        return ""
    lines = [line for line in text.split("\n") if line.strip()]
    return f"exit code {code}: {lines[-1].strip() if lines else 'no output'}"
