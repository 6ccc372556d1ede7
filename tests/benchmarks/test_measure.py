"""The measuring of processes, on commands whose costs are known."""

import subprocess
import sys
import time

import pytest

from benchmarks.common.measure import Measurement, run_fresh
from benchmarks.common.processes import Memory

BURN = "import time\nwhile time.process_time() < {seconds}: pass"
WITH_MARKS = """
import subprocess, sys, time
from benchmarks.common.measure import Reporter
reporter = Reporter.from_environment()
reporter.mark(0)
subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.5: pass"])
reporter.mark(1)
block = bytearray(150_000_000)
reporter.mark(2)
reporter.result({"answer": 42})
"""


def python(code: str, **keywords: float) -> Measurement:
    return run_fresh([sys.executable, "-c", code], timeout=keywords.pop("timeout", 120.0))


def alive(words: str) -> bool:
    return subprocess.run(["pgrep", "-f", words], capture_output=True, check=False).returncode == 0


def test_memory_adds_and_peaks_part_by_part() -> None:
    assert Memory(3, 1, 2, 0) + Memory(1, 1, 0, 5) == Memory(4, 2, 2, 5)
    assert Memory(3, 1, 2, 0).peak(Memory(1, 4, 0, 5)) == Memory(3, 4, 2, 5)


def test_marks_see_the_time_of_an_ended_child_and_the_memory_between_them() -> None:
    found = python(WITH_MARKS)
    assert (found.failure, found.result, found.left) == ("", {"answer": 42}, 0)
    zero, one, two = found.marks
    assert [zero.number, one.number, two.number] == [0, 1, 2]
    assert 0.45 < one.cpu - zero.cpu < 1.5  # half a second of burning and the start of a Python
    assert one.at - zero.resumed >= 0.5
    assert two.peak.anonymous - zero.peak.anonymous > 140  # of 150 MB
    assert found.peak.pss >= two.peak.pss - 1
    assert found.cpu >= two.cpu
    assert found.wall >= two.resumed


def test_a_daemon_is_counted_and_does_not_outlive_the_measurement() -> None:
    code = (
        f"import subprocess; subprocess.Popen([{sys.executable!r}, '-c', "
        f"{BURN.format(seconds=0.4)!r}], start_new_session=True)"
    )
    found = python(code)
    assert (found.failure, found.left) == ("", 0)
    assert found.cpu > 0.4  # it ended by itself, after its parent


def test_time_is_up_for_a_command_and_its_children() -> None:
    began = time.monotonic()
    found = run_fresh(["sh", "-c", "sleep 41.5 & sleep 42.5"], timeout=0.5)
    assert found.failure == "did not end within 0.5 s"
    assert time.monotonic() - began < 40  # seconds, which the shorter sleep would take
    assert not alive("sleep 4[12].5")


def test_a_failure_is_the_last_line_and_names_no_folder_in_the_json() -> None:
    found = python("raise OSError('no /some/where/file')")
    assert found.failure == "exit code 1: OSError: no /some/where/file"
    assert found.plain()["failure"] == "exit code 1: OSError: no <path>"
    assert "output" not in found.plain()


def test_a_contestant_outside_of_a_benchmark_says_what_to_do() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ("from benchmarks.common.measure import Reporter; Reporter.from_environment()"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "benchmarks.engines --help" in done.stderr) == (1, True)


@pytest.mark.parametrize("code", [0, 3])
def test_exit_codes(code: int) -> None:
    assert run_fresh(["sh", "-c", f"exit {code}"], timeout=5).failure == (
        "" if code == 0 else "exit code 3: no output"
    )
