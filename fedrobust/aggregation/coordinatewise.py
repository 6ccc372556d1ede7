"""Coordinate-wise rules: every column of the updates is sorted, a range of it is kept and averaged,
and what each client gave is counted.

On a CPU a strip of columns at a time is sorted, in a core's cache and by as many threads as torch
has: up to `FEW` rows by a network of exchanges of whole rows (numpy's minimum and maximum use the
widest registers), more rows turned, so that numpy sorts each column where it lies in one piece. On
an accelerator torch sorts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedrobust.aggregation.updates import Updates, column_strips, normalize

COUNTED = 1 << 20  # columns on which the influence is counted, at least
FEW = 32  # rows up to which a network is faster than sorting columns
NEAR = 1 << 20  # bytes that a network works on at once: a core's cache
# columns that are sorted one by one at once: enough to count in long runs, few enough for all
# cores' cache
WIDE = 20_000


@dataclass(frozen=True, slots=True)
class SortedColumns:
    """Columns in ascending order, nan last: rows[r] is the (b,) array of the r-th smallest values.
    xp: the module that computes with them."""

    rows: Any
    xp: Any

    def total(self, start: int, stop: int) -> Any:
        """(b,) float64 sums of the rows start ... stop - 1."""
        if isinstance(self.rows, Tensor):
            return self.rows[start:stop].sum(dim=0, dtype=torch.float64)
        if isinstance(self.rows, np.ndarray):
            return np.einsum("nb->b", self.rows[start:stop], dtype=np.float64)
        total_b = self.rows[start].astype(np.float64)
        for row_b in self.rows[start + 1 : stop]:
            np.add(total_b, row_b, out=total_b)
        return total_b


class SelectedRange(NamedTuple):
    """The range of each sorted column that a rule keeps. mean: (b,) float64; low, high: (b,) its
    edges; below: how many values are dropped below it, a number or (b,); tied: (b,) whether a
    dropped value equals an edge, or None."""

    mean: Any
    low: Any
    high: Any
    below: Any
    tied: Any

    def every_nth(self, step: int) -> SelectedRange:
        """The same of every `step`-th column."""
        return (
            self
            if step == 1
            else SelectedRange(
                *(one if one is None or isinstance(one, int) else one[::step] for one in self)
            )
        )


class Selection(NamedTuple):
    """A coordinate-wise rule: how many values it keeps of every column, which places of the order
    it must know, and what it makes of them."""

    width: int
    places: range
    pick: Callable[[SortedColumns], SelectedRange]


def coordinatewise(
    updates: Updates, choice: Selection, rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The (D,) means of what a rule keeps, and the (N,) float64 influence of each row on them,
    summing to 1.

    rows: indices of the only rows that take part (the influence is theirs then). Clients with equal
    values at an edge of a kept range share what is kept there. The sums are taken in float64 in
    ascending order, so the order of the clients cannot change a bit of the means. The influence is
    a report: of more than 2 `COUNTED` columns only every k-th is looked at, evenly, about `COUNTED`
    in all (a standard error of at most 0.0005), since counting equal values takes ten times as long
    as sorting.
    """
    step = max(1, updates.matrix_ND.shape[1] // COUNTED)
    out_D = updates.matrix_ND.new_empty(updates.matrix_ND.shape[1])
    influence_N = torch.zeros(len(updates) if rows is None else len(rows), dtype=torch.float64)
    for part, block_Nb in updates.blocks(rows=rows):
        work = on_cpu if block_Nb.device.type == "cpu" else on_device
        influence_N += work(block_Nb, choice, out_D[part], step)
    return out_D, normalize(influence_N if out_D.numel() else influence_N + 1)


def on_cpu(block_Nb: Tensor, choice: Selection, out_b: Tensor, step: int = 1) -> Tensor:
    """Fill out_b; returns (N,) how many kept values of every `step`-th column came from each
    row."""
    n = len(block_Nb)
    pieces = list(column_strips(block_Nb, NEAR if n <= FEW else 4 * n * WIDE))
    counts_SN = np.empty((len(pieces), n))

    def work(places: range) -> None:
        # once: fresh memory costs as much as sorting
        room = np.empty((n + 1) * pieces[0][1].shape[1], dtype=np.float32)
        with np.errstate(invalid="ignore"):  # inf - inf is nan, as everywhere
            for place in places:
                part, values_Nb = pieces[place][0], pieces[place][1].numpy()
                found = choice.pick(SortedColumns(_sorted(values_Nb, choice.places, room), np))
                out_b[part].numpy()[:] = found.mean
                counts_SN[place] = _influence(
                    values_Nb[:, ::step], choice.width, found.every_nth(step)
                )

    threads = min(torch.get_num_threads(), len(pieces))
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        list(pool.map(work, [range(first, len(pieces), threads) for first in range(threads)]))
    return torch.from_numpy(counts_SN.sum(axis=0))


def on_device(block_Nb: Tensor, choice: Selection, out_b: Tensor, step: int = 1) -> Tensor:
    """The same on an accelerator."""
    found = choice.pick(SortedColumns(block_Nb.sort(dim=0).values, torch))
    out_b[:] = found.mean
    block_Nb, found = block_Nb[:, ::step], found.every_nth(step)
    counts_N = (block_Nb >= found.low).sum(1) - (block_Nb > found.high).sum(1)
    given_N: Tensor = _with_ties(block_Nb, counts_N, choice.width, found)
    return given_N.to("cpu", torch.float64)


def _sorted(values_Nb: Any, places: range, room: Any) -> Any:
    """The rows of a strip in ascending order in every column, in `room`; only those in `places`
    need be right."""
    n, width = values_Nb.shape
    if n <= FEW:
        rows = _exchanged(values_Nb, places, room[: (n + 1) * width].reshape(n + 1, width))
        # minimum and maximum hand one nan on to every place
        if not np.isnan(rows[places[0]]).any():
            return rows
    ordered_bN = room[: n * width].reshape(width, n)
    ordered_bN[:] = values_Nb.T
    ordered_bN.sort(axis=1)
    return ordered_bN.T


def _exchanged(values_Nb: Any, places: range, room_Mb: Any) -> list[Any]:
    room_Mb[:-1] = values_Nb
    rows: list[Any] = list(room_Mb)
    spare = rows.pop()
    for low, high, want_low, want_high in network(len(rows), places):
        one, other = rows[low], rows[high]
        if want_low and want_high:
            np.minimum(one, other, out=spare)
            np.maximum(one, other, out=other)
            rows[low], spare = spare, one
        elif want_low:
            np.minimum(one, other, out=one)
        else:
            np.maximum(one, other, out=other)
    return rows


@functools.lru_cache(maxsize=64)
def network(n: int, places: range) -> tuple[tuple[int, int, bool, bool], ...]:
    """Exchanges (low, high, whether the smaller value is needed in low, whether the larger is in
    high) that bring the right values to `places`.

    Batcher's merge exchange (Knuth, The Art of Computer Programming 3, algorithm 5.2.2M), without
    what the places do not depend on.
    """
    pairs = []
    top = 1 << max(n - 1, 1).bit_length() - 1
    step = top
    while step:
        reach, rest, gap = top, 0, step
        while True:
            pairs += [(low, low + gap) for low in range(n - gap) if low & step == rest]
            if reach == step:
                break
            gap, reach, rest = reach - step, reach >> 1, step
        step >>= 1
    needed, kept = set(places), []
    for low, high in reversed(pairs):
        if low in needed or high in needed:
            kept.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(kept))


def _influence(values_Nb: Any, kept: int, found: SelectedRange) -> Any:
    """(N,) how many of the kept values came from each row: those not below the range without those
    above it."""
    low_b, high_b = np.ascontiguousarray(found.low), np.ascontiguousarray(found.high)
    inside_b = np.empty(len(low_b), dtype=bool)
    counts_N = np.empty(len(values_Nb))
    for row, values_b in enumerate(values_Nb):
        counts_N[row] = np.count_nonzero(np.greater_equal(values_b, low_b, out=inside_b))
        counts_N[row] -= np.count_nonzero(np.greater(values_b, high_b, out=inside_b))
    return _with_ties(values_Nb, counts_N, kept, found)


def _with_ties(values_Nb: Any, counts_N: Any, kept: int, found: SelectedRange) -> Any:
    """The counts put right in columns where an edge of the range is shared; for numpy arrays and
    for tensors."""
    if found.tied is None or not found.tied.any():
        return counts_N
    tied_b = found.tied
    values_Nt, low_t, high_t = values_Nb[:, tied_b], found.low[tied_b], found.high[tied_b]
    below_t = found.below if isinstance(found.below, int) else found.below[tied_b]
    plain_N = (values_Nt >= low_t).sum(1) - (values_Nt > high_t).sum(1)
    return counts_N - plain_N + _shared(values_Nt, low_t, high_t, below_t, kept)


def _shared(values_Nb: Any, low_b: Any, high_b: Any, below_b: Any, kept: int) -> Any:
    """The same for columns with ties: of the values equal to an edge those are kept that are not
    dropped beyond it."""
    at_low_Nb, at_high_Nb, flat_b = values_Nb == low_b, values_Nb == high_b, low_b == high_b
    inside_Nb = (values_Nb > low_b) & (values_Nb < high_b)
    above_b = len(values_Nb) - kept - below_b
    kept_low_b = ((values_Nb <= low_b).sum(0) - below_b) * ~flat_b + kept * flat_b
    kept_high_b = ((values_Nb >= high_b).sum(0) - above_b) * ~flat_b
    share_low_b = kept_low_b / at_low_Nb.sum(0).clip(1)
    share_high_b = kept_high_b / at_high_Nb.sum(0).clip(1)
    return (inside_Nb + at_low_Nb * share_low_b + at_high_Nb * share_high_b).sum(1)


def any_of(flags: Sequence[Any]) -> Any:
    """Element-wise or of (b,) flags; None without any."""
    return functools.reduce(lambda one, other: one | other, flags) if flags else None
