"""The matrix of client updates that every server rule works on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from fedrobust.aggregation import gram as products
from fedrobust.aggregation.storage import BUDGET, allocate, expect, fetch, is_mapped
from fedrobust.state import Layout

BLOCK = 1 << 28  # bytes of a block: pieces of rows long enough for a disk, few enough for any RAM
STRIP = 1 << 22  # bytes of a strip of a block: what stays near a core while it is worked on
RUNS = 64  # places in the columns at which a Gram matrix is estimated
LONG = 1 << 18  # columns of the strips in which whole rows are added: their sum stays near a core


def column_strips(block_Nb: Tensor, size: int = STRIP) -> Iterator[tuple[slice, Tensor]]:
    """A block cut into column strips (slice, view) of about `size` bytes."""
    width = max(1, size // max(1, block_Nb.element_size() * len(block_Nb)))
    for start in range(0, block_Nb.shape[1], width):
        part = slice(start, min(start + width, block_Nb.shape[1]))
        yield part, block_Nb[:, part]


@dataclass(frozen=True, slots=True)
class Updates:
    """The replies of one round, sorted by client: row n belongs to clients[n].

    matrix_ND: float32 parameter updates (trained minus reference), in RAM, on a GPU or in a memory
    map. buffers_NB: float32 buffer values as the clients sent them. num_examples_N: float64,
    training images per client. layout: names of the columns, where they are needed (None in tests
    on bare matrices). budget_bytes, folder: what `allocate` was asked for the matrix, for the
    further matrices that a rule needs.
    """

    matrix_ND: Tensor
    buffers_NB: Tensor
    num_examples_N: Tensor
    clients: tuple[int, ...]
    layout: Layout | None = None
    budget_bytes: int = BUDGET
    folder: str | None = None

    @classmethod
    def of(cls, matrix_ND: Tensor, num_examples_N: Tensor | None = None) -> Updates:
        """Updates from a bare matrix: clients 0..N-1, no buffers, one example each by default."""
        n = len(matrix_ND)
        counts = (
            torch.ones(n, dtype=torch.float64)
            if num_examples_N is None
            else num_examples_N.to(torch.float64)
        )
        return cls(matrix_ND, torch.zeros(n, 0), counts, tuple(range(n)))

    def __len__(self) -> int:
        return len(self.clients)

    def row(self, n: int) -> Tensor:
        """The (D,) update in row n, read-only; a copy in RAM where the matrix is mapped."""
        row_D = self.matrix_ND[n]
        return fetch(row_D, torch.empty_like(row_D)) if is_mapped(row_D) else row_D

    def blocks(
        self, width: int | None = None, rows: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Column blocks (slice, (N, <= width)) from left to right, for coordinate-wise rules;
        read-only, each until the next.

        width: None: `BLOCK` bytes, or `STRIP` where rows in RAM must be copied. rows: indices of
        the only rows wanted, in their order. Blocks of a mapped matrix are copies in RAM, and the
        next one is read from the disk while a rule works on this one.
        """
        count, columns = len(self) if rows is None else len(rows), self.matrix_ND.shape[1]
        size = BLOCK if rows is None or is_mapped(self.matrix_ND) else STRIP
        width = width or max(1, size // (4 * max(count, 1)))
        parts = [slice(start, min(start + width, columns)) for start in range(0, columns, width)]
        if is_mapped(self.matrix_ND):
            yield from _copies(
                self.matrix_ND, range(count) if rows is None else rows.tolist(), parts
            )
            return
        for part in parts:
            block_Nb = self.matrix_ND[:, part]
            yield part, block_Nb if rows is None else block_Nb[rows]

    def allocate(self, rows: int) -> Tensor:
        """An uninitialised (rows, D) matrix in what the updates' own leaves of the budget, else
        mapped (see `allocate`)."""
        taken = 0 if is_mapped(self.matrix_ND) else self.matrix_ND.nbytes
        return allocate(
            rows, self.matrix_ND.shape[1], max(self.budget_bytes - taken, 0), self.folder
        )

    def gram(self) -> Tensor:
        """The (N, N) float64 matrix of inner products, accumulated strip by strip: all that
        distance rules need.

        In float32 it would take a third of the time, but where all updates share a large part,
        distances are small differences of large products: float32 loses them, and with them Krum's
        choice.
        """
        pieces = (
            strip_Nb
            for _, block_Nb in self.blocks()
            for _, strip_Nb in column_strips(block_Nb, STRIP // 2)
        )  # widened, they are a strip
        return products.accumulate(
            pieces, self.matrix_ND.new_zeros((len(self), len(self)), dtype=torch.float64)
        )

    def gram_estimate(self, columns: int, generator: Generator) -> Tensor:
        """The (N, N) float64 inner products, estimated from about so many columns: runs of
        neighbours at random places, scaled up to all. Exact where that is no fewer than there are,
        and no number is drawn then. Reads nothing else of a mapped matrix."""
        total, width = self.matrix_ND.shape[1], max(1, columns // RUNS)
        if width * RUNS >= total:
            return self.gram()
        starts = (
            torch.randint(total - width + 1, (RUNS,), generator=generator).sort().values.tolist()
        )
        parts = [slice(start, start + width) for start in starts]
        if is_mapped(self.matrix_ND):
            pieces = (piece_Nb for _, piece_Nb in _copies(self.matrix_ND, range(len(self)), parts))
        else:
            pieces = (self.matrix_ND[:, part] for part in parts)
        gram_NN = products.accumulate(
            pieces, self.matrix_ND.new_zeros((len(self), len(self)), dtype=torch.float64)
        )
        return gram_NN * (total / (width * RUNS))

    def combine(self, weights_N: Tensor) -> Tensor:
        """The (D,) weighted sum of the rows (weights are used as given). Rows of weight 0 are left
        out, so 0 x inf is 0."""
        chosen = weights_N.nonzero().reshape(-1)
        # only these are read from the disk
        apart = is_mapped(self.matrix_ND) and len(chosen) < len(self)
        rows = [
            (place if apart else row, float(weights_N[row]))
            for place, row in enumerate(chosen.tolist())
        ]
        columns = self.matrix_ND.shape[1]
        out = self.matrix_ND.new_empty(columns) if rows else self.matrix_ND.new_zeros(columns)
        for part, block_Nb in self.blocks(rows=chosen if apart else None):
            for inner, strip_Nb in column_strips(block_Nb, 4 * len(block_Nb) * LONG):
                sum_b = out[part][inner]
                for row, weight in rows[:1]:
                    torch.mul(strip_Nb[row], weight, out=sum_b)
                for row, weight in rows[1:]:
                    sum_b.add_(strip_Nb[row], alpha=weight)
        return out


def _copies(
    matrix_ND: Tensor, rows: Sequence[int], parts: list[slice]
) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of a mapped matrix, one after the other in the same RAM."""
    if not parts:
        return
    room = torch.empty(len(rows) * (parts[0].stop - parts[0].start))
    for part, following in zip(parts, [*parts[1:], slice(0, 0)], strict=True):
        width = part.stop - part.start
        block_Nb = room[: len(rows) * width].view(len(rows), width)
        for n, row in enumerate(rows):
            fetch(matrix_ND[row, part], block_Nb[n])
            expect(matrix_ND[row, following])
        yield part, block_Nb


def squared_distances(gram_NN: Tensor) -> Tensor:
    """Squared Euclidean distances (N, N) between rows from their Gram matrix; tiny negatives of
    rounding become 0."""
    squares_N = gram_NN.diagonal()
    return (squares_N[:, None] + squares_N[None, :] - 2 * gram_NN).clamp_(min=0).fill_diagonal_(0)


def normalize(values_N: Tensor) -> Tensor:
    """Non-negative values as shares that sum to 1 (all zeros stay zeros)."""
    wide = values_N.to(torch.float64)
    total = wide.sum()
    return wide / total if total > 0 else wide


@dataclass(frozen=True, slots=True)
class UpdateRows:
    """The rows of the matrix with these numbers ((M,) int64), and no others: nothing else is ever
    read. Read-only."""

    updates: Updates
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    @property
    def clients(self) -> tuple[int, ...]:
        """The clients of the rows, in order."""
        return tuple(self.updates.clients[n] for n in self.index.tolist())

    def column_strips(self) -> Iterator[tuple[slice, Tensor]]:
        """Column strips (slice, (M, b) copies) of some megabytes, from left to right, each until
        the next."""
        for part, block_Mb in self.updates.blocks(rows=self.index):
            for inner, strip_Mb in column_strips(block_Mb):
                yield slice(part.start + inner.start, part.start + inner.stop), strip_Mb

    def gram(self) -> Tensor:
        """The (M, M) float64 matrix of inner products, on the CPU."""
        total = torch.zeros(len(self), len(self), dtype=torch.float64)
        for _, strip_Mb in self.column_strips():
            wide_Mb = strip_Mb.to(torch.float64)
            total += (wide_Mb @ wide_Mb.T).cpu()
        return total
