"""Linear mixtures of the clients' updates, seen as updates themselves: what a pre-aggregation hands
to a rule.

Nothing is stored a second time: blocks are mixed when they are asked for, and what a rule combines
is combined from the clients' own rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from fedrobust.aggregation.round import merge_buffers
from fedrobust.aggregation.storage import is_mapped
from fedrobust.aggregation.updates import Updates

SIZE = 1 << 23  # bytes of a mixed block
READ = 1 << 26  # bytes read at once of a matrix on a disk


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedUpdates(Updates):
    """M rows, each a linear combination of the N rows of `base`.

    `matrix_ND` is that of `base`, for its columns, type and device: the rows are had from the
    methods alone. mixing_MN: float64, non-negative, on the CPU. gram_NN: the inner products of the
    rows of `base`, float64, on the CPU.
    """

    base: Updates
    mixing_MN: Tensor
    gram_NN: Tensor

    def row(self, n: int) -> Tensor:
        """The (D,) mixture in row n."""
        return self.base.combine(self.mixing_MN[n])

    def blocks(
        self, width: int | None = None, rows: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Column blocks as of any updates, one at a time in the same 8 MB of memory, for mapped
        matrices too."""
        mixing_Mn = (self.mixing_MN if rows is None else self.mixing_MN[rows.cpu()]).to(
            self.matrix_ND
        )
        columns = self.matrix_ND.shape[1]
        width = min(width or max(1, SIZE // (4 * max(self.mixing_MN.shape))), columns)
        read = width * max(1, READ // SIZE) if is_mapped(self.matrix_ND) else width
        buffer_Mb = self.matrix_ND.new_empty(len(mixing_Mn), width)
        for part, block_Nb in self.base.blocks(read):
            for start in range(part.start, part.stop, width):
                piece_Nb = block_Nb[:, start - part.start : start - part.start + width]
                mixed_Mb = torch.mm(mixing_Mn, piece_Nb, out=buffer_Mb[:, : piece_Nb.shape[1]])
                yield slice(start, start + piece_Nb.shape[1]), mixed_Mb

    def gram(self) -> Tensor:
        """The (M, M) float64 inner products, without another look at the matrix."""
        return self.mixing_MN @ self.gram_NN @ self.mixing_MN.T

    def gram_estimate(self, columns: int, generator: Generator) -> Tensor:
        """The exact one, which is at hand."""
        return self.gram()

    def combine(self, weights_N: Tensor) -> Tensor:
        """The (D,) weighted sum of the mixtures, from the rows of `base`."""
        return self.base.combine(self.mixing_MN.T @ weights_N.to(self.mixing_MN))


def mix_updates(updates: Updates, mixing_MN: Tensor, gram_NN: Tensor) -> MixedUpdates:
    """The mixtures mixing_MN @ updates, each row's coefficients non-negative; gram_NN:
    `updates.gram()`, for what needs distances.

    Buffers and numbers of images are averaged by the shares that the clients have in a row (a
    running variance gets the spread between their means, as in `merge_buffers`): an update that is
    only shortened keeps its client's. Where there are as many rows as clients, a row bears its
    client's number, else that of the first client that has a share in it.
    """
    mixing_MN, gram_NN = mixing_MN.to("cpu", torch.float64), gram_NN.to("cpu", torch.float64)
    count, clients = mixing_MN.shape
    own_M = (
        torch.arange(count) if count == clients else (mixing_MN != 0).to(torch.int64).argmax(dim=1)
    )
    sums_M1 = mixing_MN.sum(dim=1, keepdim=True)
    alone_MN = torch.nn.functional.one_hot(own_M, clients).to(mixing_MN)
    shares_MN = torch.where(sums_M1 > 0, mixing_MN / sums_M1, alone_MN)
    buffers = updates.buffers_NB
    if torch.equal(shares_MN, alone_MN):
        if not torch.equal(own_M, torch.arange(clients)):
            buffers = buffers[own_M.to(buffers.device)]
    else:
        buffers = torch.stack(
            [merge_buffers(updates.layout, updates.buffers_NB, row_N) for row_N in shares_MN]
        )
    return MixedUpdates(
        matrix_ND=updates.matrix_ND,
        buffers_NB=buffers,
        num_examples_N=shares_MN @ updates.num_examples_N.to(shares_MN),
        clients=tuple(updates.clients[n] for n in own_M.tolist()),
        layout=updates.layout,
        budget_bytes=updates.budget_bytes,
        folder=updates.folder,
        base=updates,
        mixing_MN=mixing_MN,
        gram_NN=gram_NN,
    )
