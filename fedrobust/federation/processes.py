"""Programs that run while something else happens, and of which nothing is left afterwards.

Flower's processes start others, some in sessions of their own: all of them are known by a mark in
their environment (Linux only). Should the program that started them be killed itself, a guard
process ends them: `python -m fedrobust.federation.processes <mark>`, which waits for its standard
input to end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, final

from fedrobust.errors import RunError, exit_reason

MARK = "FEDROBUST_PROCESSES"
GRACE_SECONDS = 5.0  # between asking a process to end and ending it


@final
class Processes:
    """Started programs by name, with a log file each in `folder`; leaving the `with` ends them and
    all that they started."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._mark = folder, uuid.uuid4().hex
        # the commands of a virtual environment that is not activated
        beside = str(Path(sys.executable).parent)
        path = os.pathsep.join([beside, os.environ.get("PATH", os.defpath)])
        self.environment = {
            **os.environ,
            **environment,
            "PATH": path,
            "PYTHONUNBUFFERED": "1",
            MARK: self._mark,
        }
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self.process_guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", __name__, self._mark]
        self.process_guard = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        *,
        show: bool = False,
        **environment: str,
    ) -> None:
        """A program in that folder; what it says is added to <name>.log, or shown."""
        folder.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            self._started[name] = subprocess.Popen(
                [self._found(command[0]), *command[1:]],
                cwd=folder,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=None if show else log,
                stderr=None if show else subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, name: str, seconds: float) -> None:
        """Until a program ends, or for so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._started[name].wait(seconds)

    def run(self, command: Sequence[str], folder: Path, seconds: float, **environment: str) -> str:
        """Standard output of a program in that folder. Raises RunError where it fails
        or takes longer."""
        words = [self._found(command[0]), *command[1:]]
        try:
            done = subprocess.run(
                words,
                cwd=folder,
                env={**self.environment, **environment},
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RunError(f"{command[0]}: no end within {seconds:g} s") from None
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).split("\n")
            raise RunError(
                f"{' '.join(command[:3])}: {exit_reason(done.returncode)}: {' '.join(said[-3:])}"
            )
        return done.stdout

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def pid(self, name: str) -> int:
        return self._started[name].pid

    def ended(self) -> dict[str, int]:
        """{name: exit code} of the programs that have ended by themselves."""
        return {
            name: code
            for name, process in self._started.items()
            if (code := process.poll()) is not None
        }

    def kill(self, name: str) -> None:
        """End one program at once, as a power failure does; what it started ends by itself."""
        process = self._started.pop(name)
        process.kill()
        process.wait()

    def alive(self) -> dict[int, str]:
        """{process id: command line} of everything that was started and is still there."""
        return dict(_marked(self._mark))

    def close(self) -> None:
        """End everything, the youngest first; those that do not stop are killed."""
        for process in reversed(self._started.values()):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        self._wait_for_all(GRACE_SECONDS)
        _signal_all(self._mark, signal.SIGKILL)
        self._wait_for_all(GRACE_SECONDS)
        self._started = {}
        if self.process_guard is not None:
            self.process_guard.communicate()  # ends its standard input; it finds nothing to do
            self.process_guard = None

    def _wait_for_all(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            # an ending process has no environment any more, by which `alive` knows it
            ended = [process.poll() is not None for process in self._started.values()]
            if all(ended) and not self.alive():
                return
            time.sleep(0.1)

    def _found(self, program: str) -> str:
        found = shutil.which(program, path=self.environment["PATH"])
        if found is None:
            raise RunError(
                f"{program}: not found; install fedrobust with its dependencies in "
                f"the environment of {sys.executable}"
            )
        return found


def _marked(mark: str) -> Iterator[tuple[int, str]]:
    needle = f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or belongs to another user
            if needle in (folder / "environ").read_bytes().split(b"\0"):
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z" and int(folder.name) != os.getpid():
                    yield (
                        int(folder.name),
                        (folder / "cmdline")
                        .read_bytes()
                        .replace(b"\0", b" ")
                        .decode(errors="replace")
                        .strip(),
                    )


def _signal_all(mark: str, number: int) -> None:
    for pid, _ in _marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _run_guard(mark: str) -> None:
    """Wait for the end of the standard input, which is that of the starting program, and end
    everything with the mark."""
    sys.stdin.read()
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal_all(mark, number)
        deadline = time.monotonic() + GRACE_SECONDS
        while dict(_marked(mark)) and time.monotonic() < deadline:
            time.sleep(0.1)


def free_ports(number: int) -> list[int]:
    """Ports of the loopback interface that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def wait_for_port(host: str, port: int, processes: Processes, name: str, seconds: float) -> None:
    """Wait until the port accepts connections. Raises RunError where the program ends before, or
    not in that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        if name in processes.ended():
            raise RunError(
                f"{name}: {exit_reason(processes.ended()[name])}, at once; see "
                f"{processes.log(name)}"
            )
        time.sleep(0.1)
    raise RunError(
        f"{name} does not listen on port {port} after {seconds:g} s; see {processes.log(name)}"
    )


if __name__ == "__main__":
    _run_guard(sys.argv[1])
