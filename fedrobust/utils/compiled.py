"""Compilation of loops by numba (the extra `fast`), and the number of them that run side by side.
Without numba tensor operations take their place: ask `HAS_NUMBA` of `utils.machine` before this is
imported.

Not by numba's own threads: those of its OpenMP layer change the number of torch's in the same
process.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

import numba
import numpy as np
import torch

LEAST = 2**16  # values that justify a thread of their own
# an index of this type is never negative, so no look-up has to ask whether it is
whole: Any = np.uintp
_Loop = TypeVar("_Loop", bound=Callable[..., Any])


def compiled(loop: _Loop) -> _Loop:
    """Machine code at the first call. IEEE arithmetic: no `fastmath`, so that results do not depend
    on the machine."""
    made: _Loop = numba.njit(nogil=True, error_model="numpy")(loop)
    return made


def inlined(part: _Loop) -> _Loop:
    """A part of compiled loops, which becomes part of their machine code: a name for some lines."""
    made: _Loop = numba.njit(nogil=True, error_model="numpy", inline="always")(part)
    return made


def shared_out(loop: Callable[[int, int], None], count: int, values: int) -> None:
    """loop(first, last) for parts of range(count), which have so many values in all, on as many
    threads as torch has: an engine gives each of its workers a share of the cores."""
    threads = max(1, min(torch.get_num_threads(), count, values // LEAST))
    edges = [count * place // threads for place in range(threads + 1)]
    if threads == 1:
        loop(0, count)
    else:
        list(_pool(threads).map(loop, edges[:-1], edges[1:]))  # raises what a thread raised


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="compiled")
