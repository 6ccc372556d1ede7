"""The C library's allocator: it keeps freed memory while a run lasts, since training asks for the
same memory again and again."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # numbers of <malloc.h>


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for itself, up to 2 GB of it; whether that could be
    arranged (glibc only).

    By default glibc gives large tensors back to the system as soon as they are freed, and gets the
    next ones page by page and zeroed: a sixth of the time of a ResNet-18's step on a few images.
    Tensors above 256 MB still go back at once.
    """
    set_option = _function("mallopt")
    if set_option is None:
        return False
    return bool(set_option(MMAP_THRESHOLD, 256 << 20)) and bool(
        set_option(TRIM_THRESHOLD, (2 << 30) - 1)
    )


def give_back_freed_memory() -> bool:
    """Give the memory that this process keeps for itself back to the system; whether that could be
    done (glibc only)."""
    trim = _function("malloc_trim")
    return trim is not None and bool(trim(0))


def _function(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where it has none of this name, as musl."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)
