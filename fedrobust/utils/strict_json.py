"""JSON that others wrote: one object, every key once, finite numbers, printable words, not too deep
and not too long."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from fedrobust.errors import ConfigError

LONGEST = 1 << 20  # characters
DEEPEST = 32
DIGITS = 20  # of a whole number: more than 64 bits have


def read_object(text: str, what: str) -> dict[str, Any]:
    """The object in a text. Raises ConfigError of one line that begins with `what`, for any
    text holds."""
    _check_length(text, what)
    try:
        value = json.loads(
            text,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_finite,
            object_pairs_hook=_once,
        )
    except RecursionError:
        raise ConfigError(f"{what}: nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{what}: must be a JSON object, not {type(value).__name__}")
    _check(value, what)
    return value


def check_object(value: dict[str, Any], text: str, what: str) -> None:
    """The limits of `read_object` for an object of our own and its text, so that the receiver of
    the text can read it. Raises ConfigError."""
    _check_length(text, what)
    _check(value, what)


def _check_length(text: str, what: str) -> None:
    if len(text) > LONGEST:
        raise ConfigError(f"{what}: {len(text)} characters, more than {LONGEST}")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError("a number that is not finite")
    return value


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object that names a key twice")
    return found


def _check(value: dict[str, Any], what: str) -> None:
    """Without recursion, which the text could exhaust."""
    left: list[tuple[Any, int]] = [(value, 1)]
    while left:
        one, depth = left.pop()
        if isinstance(one, (dict, list)) and depth > DEEPEST:
            raise ConfigError(f"{what}: nested more than {DEEPEST} deep")
        if isinstance(one, int) and abs(one) >= 10**DIGITS:
            raise ConfigError(f"{what}: a whole number of {len(str(one))} digits")
        if isinstance(one, str) and not one.isprintable():
            raise ConfigError(f"{what}: holds signs that cannot be printed")
        inner = (
            [*one, *one.values()] if isinstance(one, dict) else one if isinstance(one, list) else ()
        )
        left += [(item, depth + 1) for item in inner]
