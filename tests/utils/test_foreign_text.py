"""Texts of others: harmless wherever they are shown, and lines that end at line feeds alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.utils.foreign_text import CUT, LINE, LINES, escape_text, split_lines

ROOT = Path(__file__).parents[2]
BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
CONTROLS = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))
HIDDEN = "\u200b\u2028\u2029\ufeff\U000e0041\ud800\udfff"
TEXTS = st.text(st.characters(codec=None, categories=None))  # lone surrogates too


@pytest.mark.parametrize("sign", CONTROLS + BIDIRECTIONAL + HIDDEN)
def test_every_sign_that_steers_is_written_as_its_escape(sign: str) -> None:
    shown = escape_text(f"a{sign}b")
    assert shown.isprintable()
    assert shown[1] == "\\"
    assert int(shown[3:-1], 16) == ord(sign)


def test_words_of_all_scripts_stay_as_they_are() -> None:
    for text in (
        "ValueError: größer als 5",
        "黑色素瘤",
        "меланома",
        "n\u0303 <b> [bold] 'x' \\u2028",
    ):
        assert escape_text(text) == text


@given(TEXTS, st.integers(1, 60), st.booleans())
@settings(max_examples=200)
def test_any_text_becomes_short_and_harmless(text: str, length: int, multiline: bool) -> None:
    shown = escape_text(text, length, multiline=multiline)
    assert len(shown) <= length
    assert all(sign.isprintable() or (multiline and sign in "\n\t") for sign in shown)
    assert escape_text(shown, length, multiline=multiline) == shown
    shown.encode()  # can be written to a file


def test_what_was_cut_off_is_marked_where_it_was() -> None:
    assert escape_text("x" * LINE) == "x" * LINE
    assert escape_text("x" * LINE + "y") == "x" * (LINE - 1) + CUT
    long = "first\n" + "x" * LINES + "\nValueError: last"
    shown = escape_text(long, LINES, multiline=True)
    assert len(shown) == LINES
    assert shown.startswith(CUT)
    assert shown.endswith("\nValueError: last")


def test_lines_end_at_line_feeds_alone() -> None:
    assert split_lines('{"a": "x\u2028y\x85z\x1c"}\n{"b": 1}\n') == [
        '{"a": "x\u2028y\x85z\x1c"}',
        '{"b": 1}',
    ]
    assert split_lines("") == []
    assert split_lines("\n\n") == ["", ""]


def test_no_reader_splits_lines_anywhere_else() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("fedrobust", "strategies", "clients", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "splitlines"
    ]
    assert found == []
