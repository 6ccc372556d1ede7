"""The screen while a grid runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from fedrobust.reporting.text import format_duration
from fedrobust.studies.comparison import progress
from fedrobust.studies.comparison.progress import Screen
from tests.helpers.comparisons import cell


def test_lines_where_there_is_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.0, 0.0, 30.0, 30.0, 200.0])  # begun, twice started, ended, tick, ended
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    text, one, two = io.StringIO(), cell("krum", "flip", 3), cell("me\x1b[31mdian")
    with Screen(3, tmp_path, Console(file=text, width=80)) as screen:
        for each in (one, two):
            screen.started(each)
        screen.ended(one, None, 29)
        screen.tick()
        screen.ended(two, "no\x07 memory", 190)
        screen.stopping(1)
    # one of three after 30 s: 60 s for the other two; two of three after 200 s: 100 s for the last
    assert text.getvalue().splitlines() == [
        "1/3 krum · flip · 3 poisoned · seed 0: done (29 s; about 60 s left)",
        "2/3 me\\x1b[31mdian · none · 0 poisoned · seed 0: failed: no\\x07 memory "
        "(3 min; about 2 min left)",
        (
            "stopping 1 running cells, which can resume from their last checkpoints; "
            "Ctrl-C again ends them at once"
        ),
    ]


def test_a_cell_that_takes_much_longer_than_the_others_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    text, others, slow = io.StringIO(), [cell(name) for name in "abc"], cell("krum", "flip", 3)
    with Screen(4, tmp_path, Console(file=text, width=80)) as screen:
        screen.started(slow)
        now = 1000.0
        screen.tick()  # nothing is known of the others
        for one, seconds in zip(others, (1.0, 30.0, 900.0), strict=True):
            screen.started(one)
            screen.ended(one, "no memory" if seconds == 900 else None, seconds)
        lines = len(text.getvalue().splitlines())
        for now in (154.0, 156.0, 1000.0):  # noqa: B007 - the clock
            screen.tick()
    said = text.getvalue().splitlines()[lines:]
    assert said == [
        "krum · flip · 3 poisoned · seed 0: runs for 3 min so far, the median of the finished "
        f"cells is 16 s; see {tmp_path / slow.folder / 'run.log'}; cell_seconds=... ends cells "
        "that hang"
    ]


def test_short_cells_are_not_called_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.0, 0.0, 1.0, 59.0, 61.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    text, one, two = io.StringIO(), cell("a"), cell("b")
    with Screen(2, tmp_path, Console(file=text, width=80)) as screen:
        for each in (one, two):
            screen.started(each)
        screen.ended(one, None, 0.5)
        said = []
        for _ in range(2):
            screen.tick()
            said.append("runs for" in text.getvalue())
    assert said == [False, True]


def test_bars_on_a_terminal(tmp_path: Path) -> None:
    text, one = io.StringIO(), cell("krum", "flip", 3)
    (tmp_path / one.folder).mkdir()
    # the untrained model and two rounds
    (tmp_path / one.folder / "rounds.jsonl").write_text("{}\n" * 3)
    with Screen(2, tmp_path, Console(file=text, width=120, force_terminal=True)) as screen:
        screen.started(one)
        screen.tick()
    assert "2/10" in text.getvalue()  # 5 rounds of the run and 5 of its twin
    with Screen(2, tmp_path, Console(file=text, width=120, force_terminal=True)) as screen:
        screen.started(one)
        screen.ended(one, None, 3)
    assert "1/2" in text.getvalue()


def test_durations() -> None:
    assert [format_duration(seconds) for seconds in (0, 99, 100, 5940, 7500)] == [
        "0 s",
        "99 s",
        "2 min",
        "99 min",
        "2 h 5 min",
    ]
