"""Numbers of things in words."""

from __future__ import annotations


def format_count(number: int, one: str, many: str = "") -> str:
    """A number with its noun: "1 round", "0 rounds", "2 rounds".

    Args:
        number: how many there are.
        one: the noun, and what follows it, of a single thing.
        many: the same of any other number; empty: `one` with an s.
    """
    return f"{number} {one if number == 1 else many or f'{one}s'}"
