import signal
import subprocess
import sys

import pytest

from fedrobust.errors import exit_reason


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, "ended with code 0"),
        (3, "ended with code 3"),
        (-signal.SIGKILL, "killed by SIGKILL, as happens when memory runs out"),
        (-signal.SIGTERM, "killed by SIGTERM"),
        (-60, "killed by signal 60"),
    ],
)
def test_how_a_process_ended(code: int, expected: str) -> None:
    assert exit_reason(code) == expected


@pytest.mark.parametrize(
    "number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL]
)
def test_a_crash_is_called_a_crash(number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})"], check=False
    )
    assert exit_reason(done.returncode).startswith(
        f"killed by {number.name}, a crash in native code"
    )
