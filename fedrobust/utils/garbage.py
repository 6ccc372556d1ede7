"""Python's garbage collector while a process starts.

Imports make half a million objects that stay, and the collector walks through all of them each time
their number has grown by a quarter: a third of the time that the imports take.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

RARE = 1000  # collections of younger objects before one of all objects
_STARTING: list[tuple[int, int, int]] = []  # the usual thresholds while a process starts


@contextmanager
def rare_full_collections() -> Iterator[None]:
    """Within it, until `end_start`, all objects are collected only after `RARE` collections of
    younger ones; young objects are collected as ever."""
    usual = gc.get_threshold()
    _STARTING.append(usual)
    gc.set_threshold(usual[0], usual[1], RARE)
    try:
        yield
    finally:
        _STARTING.clear()
        gc.set_threshold(*usual)
        gc.unfreeze()  # a process that ends takes apart what can be collected


def end_start() -> None:
    """Within `rare_full_collections` the first call sets Python's usual thresholds again; the
    objects that there are, almost all of them of the imports, are not walked through any more.
    Elsewhere nothing changes."""
    if _STARTING:
        freeze_objects()
        gc.set_threshold(*_STARTING.pop())


def freeze_objects() -> None:
    """The objects that there are now are not walked through any more until the process ends, which
    takes apart what can be collected (libraries in C++ report what is left then as leaked)."""
    atexit.unregister(gc.unfreeze)
    atexit.register(gc.unfreeze)
    gc.freeze()
