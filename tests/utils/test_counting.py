"""One thing is singular wherever numbers are printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fedrobust
from fedrobust import clients, strategies
from fedrobust.utils.counting import format_count

FOLDERS = [Path(str(one.__file__)).parent for one in (fedrobust, strategies, clients)]


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 replies"), (1, "1 reply"), (2, "2 replies"), (10, "10 replies")]
)
def test_by_hand(number: int, text: str) -> None:
    assert format_count(number, "reply", "replies") == text


def test_the_plural_has_an_s_if_none_is_given() -> None:
    assert [format_count(number, "round") for number in (1, 3)] == ["1 round", "3 rounds"]


def test_counted_nouns_go_through_the_helper() -> None:
    """No `{number} clients` in a text that the program prints."""
    nouns = "rounds|clients|images|threads|nodes|sites|cells|hospitals|replies|runs|seeds|epochs"
    number = r"\{(?!sizes|condition|words)(?:len\([^{}]*\)|[\w.]*)\}"  # several numbers, or words
    counted = re.compile(rf"(?<!no ){number} (?:usable |test )?(?:{nouns})\b")
    found = [
        f"{path}: {match[0]}"
        for folder in FOLDERS
        for path in folder.rglob("*.py")
        for match in counted.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []
