"""Coordinate-wise rules: every column of the updates is sorted, a range of it is kept and averaged,
and what each client gave is counted.

On a CPU a strip of columns at a time is sorted, in a core's cache and by as many threads as torch
has: up to `FEW` rows by a network of exchanges of whole rows (numpy's minimum and maximum use the
widest registers), more rows turned, so that numpy sorts each column where it lies in one piece.
Where the influence is counted on few columns, only the mean is computed on all of them. With numba
the median of many rows is found by a compiled network (`coordinatewise_cpu`). On an accelerator
torch sorts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from fedrobust.aggregation.networks import network
from fedrobust.aggregation.updates import Updates, column_strips, normalize
from fedrobust.utils.machine import HAS_NUMBA

COUNTED = 1 << 20  # columns on which the influence is counted, at least
FEW = 32  # rows up to which a network is faster than sorting columns
NEAR = 1 << 20  # bytes that a network works on at once: a core's cache
COMPILED = HAS_NUMBA
PAYS = 1 << 27  # values of a matrix for which a compiled network saves more than its compilation
APART = 8  # columns for one on which the influence is counted: from so many on it is sorted twice
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

    def mean(self, start: int, stop: int) -> Any:
        """(b,) means of the same rows, rounded from float64 to float32, or about to be.

        Of one or two rows float32 gives the same bits: the float64 sum of two float32 numbers
        rounds to their float32 sum (float64 has more than twice the digits), and half of it is
        exact, or rounds as half of the exact sum does where it is below the normal numbers.
        """
        if stop - start == 1:
            return self.rows[start]
        if stop - start == 2 and not isinstance(self.rows, Tensor):
            mean_b = self.rows[start] + self.rows[start + 1]
            mean_b *= np.float32(0.5)
            if np.isfinite(mean_b).all():  # the sum is within float32
                return mean_b
        return self.total(start, stop) / (stop - start)


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
        return self.columns(slice(None, None, step))

    def columns(self, part: slice) -> SelectedRange:
        """The same of some columns."""
        return SelectedRange(
            *(one if one is None or isinstance(one, int) else one[part] for one in self)
        )


class Selection(NamedTuple):
    """A coordinate-wise rule: how many values it keeps of every column, which places of the order
    it must know, and what it makes of them. kept: the places that are kept, where these are the
    same in every column; None where they depend on the values."""

    width: int
    places: range
    pick: Callable[[SortedColumns], SelectedRange]
    kept: range | None = None


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
        if block_Nb.device.type == "cpu":
            many = len(influence_N) * out_D.numel() >= PAYS
            influence_N += on_cpu(block_Nb, choice, out_D[part], step, many=many)
        else:
            influence_N += on_device(block_Nb, choice, out_D[part], step)
    return out_D, normalize(influence_N if out_D.numel() else influence_N + 1)


def on_cpu(
    block_Nb: Tensor, choice: Selection, out_b: Tensor, step: int = 1, *, many: bool = False
) -> Tensor:
    """Fill out_b; returns (N,) how many kept values of every `step`-th column came from each row.
    many: whether there are enough values for a compiled network to be worth its compilation."""
    n = len(block_Nb)
    few_kept = choice.kept is not None and len(choice.kept) <= 2
    compiled = COMPILED and many and n > FEW and few_kept
    pieces = list(column_strips(block_Nb, NEAR if n <= FEW else 4 * n * WIDE))
    counts_SN = np.zeros((len(pieces), n))

    def work(places: range) -> None:
        # once: fresh memory costs as much as sorting
        room = np.empty((n + 1) * pieces[0][1].shape[1], np.float32)
        strips = _Strips(choice, step, counts_SN, room, compiled=compiled)
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is nan, as everywhere
            for place in places:
                part, values_Nb = pieces[place][0], pieces[place][1].numpy()
                strips.select(place, values_Nb, out_b[part].numpy())
            strips.count()

    threads = min(torch.get_num_threads(), len(pieces))
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        list(pool.map(work, [range(first, len(pieces), threads) for first in range(threads)]))
    return torch.from_numpy(counts_SN.sum(axis=0))


@final
class _Strips:
    """One thread's work on strips of columns, in the same memory `room` for all of them. counts_SN:
    where the counts of each strip go.

    Few columns of a strip are counted, and numpy takes longer to be called than to work on them: so
    those of a network's strips are gathered until there are as many as a strip has.
    """

    def __init__(
        self, choice: Selection, step: int, counts_SN: Any, room: Any, *, compiled: bool
    ) -> None:
        self._choice, self._step, self._counts_SN = choice, step, counts_SN
        self._apart = step >= APART and choice.kept is not None
        self._room, self._compiled = room, compiled
        n = counts_SN.shape[1]
        gathered = len(room) // (n + 1) if self._apart and n <= FEW else 0
        self._some_Nb = np.empty((n, gathered), np.float32)
        self._parts: list[tuple[int, slice]] = []

    def select(self, place: int, values_Nb: Any, out_b: Any) -> None:
        """Fill out_b with the means of strip number `place`, and count, now or later."""
        choice, step = self._choice, self._step
        if choice.kept is None or not self._apart:
            found = choice.pick(SortedColumns(self._sorted(values_Nb, choice.places), np))
            out_b[:] = found.mean
            some_Nb = values_Nb if step == 1 else np.ascontiguousarray(values_Nb[:, ::step])
            self._counts_SN[place] = _influence(some_Nb, choice.width, found.every_nth(step))
            return
        few = len(values_Nb) <= FEW
        if few:
            self._gather(place, values_Nb[:, ::step])
        rows = self._sorted(values_Nb, choice.kept if few else choice.places)
        out_b[:] = SortedColumns(rows, np).mean(choice.kept.start, choice.kept.stop)
        if not few:
            found = choice.pick(SortedColumns(rows[:, ::step], np))
            some_Nb = np.ascontiguousarray(values_Nb[:, ::step])
            self._counts_SN[place] = _influence(some_Nb, choice.width, found)

    def _gather(self, place: int, some_Nb: Any) -> None:
        start = self._parts[-1][1].stop if self._parts else 0
        stop = start + some_Nb.shape[1]
        if stop > self._some_Nb.shape[1]:
            self.count()
            start, stop = 0, some_Nb.shape[1]
        self._some_Nb[:, start:stop] = some_Nb
        self._parts.append((place, slice(start, stop)))

    def count(self) -> None:
        """Count in the columns gathered so far. Without ties the counts are whole numbers, the sum
        of which does not depend on how they are added up; with them each strip is counted
        alone."""
        if not self._parts:
            return
        some_Nb = self._some_Nb[:, : self._parts[-1][1].stop]
        choice = self._choice
        found = choice.pick(SortedColumns(self._sorted(some_Nb, choice.places), np))
        if found.tied is None or not found.tied.any():
            self._counts_SN[self._parts[0][0]] = _influence(some_Nb, choice.width, found)
        else:
            for place, part in self._parts:
                self._counts_SN[place] = _influence(
                    some_Nb[:, part], choice.width, found.columns(part)
                )
        self._parts = []

    def _sorted(self, values_Nb: Any, places: range) -> Any:
        if self._compiled:
            from fedrobust.aggregation.coordinatewise_cpu import exchange_rows

            rows = exchange_rows(values_Nb, places, self._room)
            if rows is not None:
                return rows
        return _sorted(values_Nb, places, self._room)


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
    """The rows after the exchanges of a network. A row of `room_Mb` is taken when it is first
    written to, and is free again once no place depends on it."""
    rows, free = list(values_Nb), list(room_Mb)
    given = [True] * len(rows)  # whether a row is still one of the values, which stay as they are

    def written(place: int) -> Any:
        if given[place]:
            given[place] = False
            return free.pop()
        return rows[place]

    def dropped(place: int) -> None:
        if not given[place]:
            free.append(rows[place])

    for low, high, want_low, want_high in network(len(rows), places):
        one, other = rows[low], rows[high]
        if want_low and want_high:
            smaller = np.minimum(one, other, out=free.pop())
            rows[high] = np.maximum(one, other, out=written(high))
            dropped(low)
            rows[low], given[low] = smaller, False
        elif want_low:
            rows[low] = np.minimum(one, other, out=written(low))
            dropped(high)
        else:
            rows[high] = np.maximum(one, other, out=written(high))
            dropped(low)
    return rows


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
