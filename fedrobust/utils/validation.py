"""Checks of single settings: each returns the value or raises one line that names the key, the
value and the remedy."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from fedrobust.errors import ConfigError


def number(
    key: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    open_low: bool = False,
    integer: bool = False,
) -> Any:
    """A finite number in [low, high] (in (low, high] with `open_low`); whole with `integer`.
    Booleans are no numbers, and whole ones have at most 64 bits, which floats can hold and arrays
    be counted in."""
    if isinstance(value, int) and value.bit_length() > 64:
        raise ConfigError(f"{key}: must be a number of at most 64 bits")
    if (
        isinstance(value, bool)
        or not isinstance(value, int if integer else (int, float))
        or not math.isfinite(value)
    ):
        raise ConfigError(f"{key}={value}: must be a {'whole ' if integer else ''}number")
    if low is not None and (value <= low if open_low else value < low):
        raise ConfigError(
            f"{key}={value}: must be {'greater than' if open_low else 'at least'} {low}"
        )
    if high is not None and value > high:
        raise ConfigError(f"{key}={value}: must be at most {high}")
    return value


def choice(key: str, value: Any, allowed: Collection[Any]) -> Any:
    """One of the allowed values."""
    if value not in allowed:
        raise ConfigError(f"{key}={value}: must be one of {', '.join(str(one) for one in allowed)}")
    return value


def flag(key: str, value: Any) -> bool:
    """True or false, nothing else."""
    if not isinstance(value, bool):
        raise ConfigError(f"{key}={value}: must be true or false")
    return value
