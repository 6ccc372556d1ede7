"""Whole numbers from shares: the largest-remainder (Hare-Niemeyer) rule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def largest_remainder(
    total: int, shares_C: NDArray[np.float64], tie_break_C: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """`total` seats over C holders: every holder gets floor(total * share), the largest remainders
    get one more each.

    shares_C: non-negative, any sum above 0. tie_break_C: among equal remainders the larger value
    wins, then the lower position. Returns (C,) counts that sum to `total`, each less than 1 away
    from its exact quota.
    """
    quotas = total * (shares_C / shares_C.sum())
    counts: NDArray[np.int64] = np.floor(quotas + 1e-9).astype(np.int64)
    # Quotas that are equal on paper must tie in floats as well, hence the rounding.
    remainders = np.round(quotas - counts, 9)
    ties = np.zeros(len(shares_C)) if tie_break_C is None else tie_break_C
    winners = np.lexsort((-np.round(ties, 9), -remainders))[: total - int(counts.sum())]
    counts[winners] += 1
    return counts
