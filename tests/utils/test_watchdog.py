"""A process that hangs is ended, and says where; one that is done in time is not."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from fedrobust.utils.watchdog import LONGEST, exit_after

HANGS = """
import time
from fedrobust.utils.watchdog import exit_after

def read_a_disk_that_does_not_answer():
    time.sleep(600)

try:
    with exit_after({seconds}):
        read_a_disk_that_does_not_answer()
finally:
    print("never")
"""


@pytest.mark.parametrize("seconds", [0.5, -3.0])
def test_what_hangs_is_ended_and_told(seconds: float) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS.format(seconds=seconds)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "read_a_disk_that_does_not_answer" in done.stderr
    assert done.stdout == ""


def test_what_is_done_in_time_goes_on() -> None:
    with exit_after(0.2):
        pass
    time.sleep(0.4)
    with pytest.raises(ZeroDivisionError), exit_after(0.2):
        raise ZeroDivisionError
    time.sleep(0.4)


@pytest.mark.parametrize("seconds", [LONGEST, 1e30, float("inf")])
def test_any_time_will_do(seconds: float) -> None:
    done = []
    with exit_after(seconds):
        done.append(seconds)
    assert done == [seconds]
