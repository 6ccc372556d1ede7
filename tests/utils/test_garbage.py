"""Full collections while a process starts."""

from __future__ import annotations

import gc
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
        assert gc.get_freeze_count() == frozen
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
