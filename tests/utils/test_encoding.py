"""Screens that lack signs."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from fedrobust.reporting.console import print_line, summary_table
from fedrobust.utils.cli import run_command
from fedrobust.utils.encoding import show_any_text
from tests.helpers import reports


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "a -> b \\u03b5 \\udce6 \\xe4"),
        ("latin-1", "a -> b \\u03b5 \\udce6 \u00e4"),
        ("utf-8", "a \u2192 b \u03b5 \\udce6 \u00e4"),
    ],
)
def test_a_sign_that_the_screen_lacks_ends_nothing(
    encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert run_command(lambda: print("a \u2192 b \u03b5 \udce6 \u00e4", flush=True)) == 0
    assert written.getvalue().decode(encoding) == shown + "\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_the_final_screen_is_shown_in_any_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    show_any_text()
    console = Console(width=80)
    console.print(summary_table(reports.typed(reports.report())))
    print_line(console, "report: n\udce6vus/report.html")
    sys.stdout.flush()
    text = written.getvalue().decode(encoding)
    assert "63.5 -> 51.7" in text
    assert "n\\udce6vus/report.html" in text
