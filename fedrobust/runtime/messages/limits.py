"""Limits to what a message holds besides its arrays of known size, and to its names and numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, RecordDict

from fedrobust.runtime.messages.arrays import FlatArray, WireError

REST_BYTES = 1 << 20  # of a reply beside its state or its predictions
ENTRIES = 64  # in any one record of a reply
# what a mean loss or any other metric may be: everything that has run away but is still a number
LARGEST = 1e30
MOST_EXAMPLES = 1 << 53
# metrics name columns of clients.csv, which people open in spreadsheets
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
RANGES: Mapping[str, tuple[float, float]] = {"loss": (0.0, LARGEST), "correct": (0.0, 1.0 + 1e-6)}


def check_records(content: RecordDict, needed: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Exactly the named records, and in those of scalars no more than `ENTRIES` entries."""
    required, allowed = set(needed), {*needed, *optional}
    if not required <= set(content) <= allowed:
        raise WireError(
            f"message: expected the records {', '.join(sorted(required))}, got "
            f"{shorten_names(content)}"
        )
    for name, record in content.items():
        if len(record) > ENTRIES:
            raise WireError(f"{name}: holds {len(record)} entries, more than {ENTRIES}")


def check_rest(content: RecordDict, *known: str) -> None:
    """All records but those of known size together hold at most `REST_BYTES`."""
    size = sum(_size(record) for name, record in content.items() if name not in known)
    if size > REST_BYTES:
        raise WireError(
            f"message: holds {size} bytes besides {' and '.join(known)}, more than {REST_BYTES}"
        )


def check_metric(name: str, value: Any) -> float:
    """A metric in its range. Compared before it is converted: an int may be too large for a
    float."""
    low, high = RANGES.get(name, (-LARGEST, LARGEST))
    if not NAME.fullmatch(name):
        raise WireError(f"metrics: {name!r:.80} is no name for a metric")
    if isinstance(value, (bool, list)) or not low <= value <= high:
        raise WireError(
            f"metrics: {name} must be a finite number in [{low:g}, {high:g}], got "
            f"{shorten_value(value)}"
        )
    return float(value)


def shorten_names(record: Mapping[str, Any]) -> str:
    """The keys of a record, cut off where there are many."""
    return ", ".join(sorted(record)[:ENTRIES])[:200] or "nothing"


def shorten_value(value: Any) -> str:
    """A foreign value in few words. (Python refuses to print integers of many digits.)"""
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    return (
        f"{value!r:.40}"
        if not isinstance(value, (list, bytes))
        else f"{type(value).__name__} of {len(value)}"
    )


def _size(record: Any) -> int:
    if isinstance(record, ArrayRecord):
        return sum(
            array.vector.nbytes if isinstance(array, FlatArray) else len(array.data)
            for array in record.values()
        )
    return sum(len(key) + _scalar_size(value) for key, value in record.items())


def _scalar_size(value: Any) -> int:
    if isinstance(value, list):
        return sum(_scalar_size(one) for one in value)
    return len(value) if isinstance(value, (str, bytes)) else 8
