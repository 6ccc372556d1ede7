"""Full collections while a process starts."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fedrobust.utils.cli import run_command
from fedrobust.utils.garbage import RARE, end_start, rare_full_collections


@pytest.fixture(autouse=True)
def usual() -> Iterator[tuple[int, int, int]]:
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)
    gc.unfreeze()


def test_full_collections_are_rare_until_the_start_has_ended(usual: tuple[int, int, int]) -> None:
    with rare_full_collections():
        assert gc.get_threshold() == (*usual[:2], RARE)
        end_start()
        assert gc.get_threshold() == usual
        frozen = gc.get_freeze_count()
        assert frozen > 0
        end_start()  # a second run of one process: what it made is collected as ever
        assert gc.get_freeze_count() <= frozen
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count() == 0


def test_outside_nothing_is_frozen() -> None:
    frozen = gc.get_freeze_count()
    end_start()
    assert gc.get_freeze_count() == frozen


def test_a_command_starts_so_and_leaves_the_thresholds(
    usual: tuple[int, int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    found = []

    def command() -> None:
        found.append(gc.get_threshold()[2])
        raise KeyboardInterrupt

    assert run_command(command) == 130
    assert found == [RARE]
    assert gc.get_threshold() == usual
    assert "interrupted" in capsys.readouterr().err


# a cycle that only a collection at the end of the process takes apart
AT_THE_END = """
import gc, os
from fedrobust.utils.garbage import freeze_objects
class Cycle:
    def __init__(self):
        self.me = self
    def __del__(self):
        os.write(1, b"taken apart")
found = Cycle()
freeze_objects()
assert gc.get_freeze_count() > 0
del found
gc.collect()
os.write(1, b"frozen, ")
"""


def test_what_was_frozen_is_taken_apart_at_the_end_of_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"frozen, taken apart", b"")
