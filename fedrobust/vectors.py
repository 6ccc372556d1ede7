"""Models as flat vectors, and the matrix of client updates that every server rule works on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedrobust.types import Aggregate, Round, State

BLOCK = 1 << 20  # columns worked on at once: 40 MB for ten clients, small enough for the caches' neighbourhood


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each named tensor of a model lies in the two flat vectors of a `State`.

    Integer buffers (BatchNorm's num_batches_tracked) and non-persistent buffers (the ETF) are left out on purpose.
    """

    parameters: tuple[tuple[str, torch.Size], ...]
    buffers: tuple[tuple[str, torch.Size], ...]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        persistent = model.state_dict().keys()
        floats = [(name, b) for name, b in model.named_buffers() if name in persistent and b.is_floating_point()]
        return cls(tuple((n, t.shape) for n, t in named), tuple((n, t.shape) for n, t in floats))

    @property
    def num_parameters(self) -> int:
        return sum(shape.numel() for _, shape in self.parameters)

    @property
    def num_buffers(self) -> int:
        return sum(shape.numel() for _, shape in self.buffers)

    def named(self, state: State) -> dict[str, Tensor]:
        """The state's tensors by name: views of the flat vectors, no copies."""
        return {**_views(self.parameters, state.parameters), **_views(self.buffers, state.buffers)}


def _views(entries: tuple[tuple[str, torch.Size], ...], vector: Tensor) -> dict[str, Tensor]:
    pieces = torch.split(vector, [shape.numel() for _, shape in entries]) if entries else ()
    return {name: piece.view(shape) for (name, shape), piece in zip(entries, pieces, strict=True)}


def _tensors(model: nn.Module, entries: tuple[tuple[str, torch.Size], ...]) -> list[Tensor]:
    tensors: dict[str, Any] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return [tensors[name].detach() for name, _ in entries]


def read(model: nn.Module, layout: Layout) -> State:
    """A copy of the model's floats on the CPU."""
    return State(_flat(_tensors(model, layout.parameters)), _flat(_tensors(model, layout.buffers)))


def _flat(tensors: list[Tensor]) -> Tensor:
    if not tensors:
        return torch.zeros(0)
    return torch.cat([tensor.reshape(-1).to(torch.float32) for tensor in tensors]).cpu()


@torch.no_grad()
def load(model: nn.Module, layout: Layout, state: State) -> None:
    """Copy a state into the model, on whatever device it lives.

    Raises ValueError when the vectors do not have the layout's sizes.
    """
    sizes = (state.parameters.numel(), state.buffers.numel())
    if sizes != (layout.num_parameters, layout.num_buffers):
        raise ValueError(f"a state of {sizes} values does not fit a model of {layout.num_parameters, layout.num_buffers}")
    for entries, vector in ((layout.parameters, state.parameters), (layout.buffers, state.buffers)):
        for target, source in zip(_tensors(model, entries), _views(entries, vector).values(), strict=True):
            target.copy_(source)


@dataclass(frozen=True, slots=True)
class Updates:
    """The replies of one round, sorted by client: row n belongs to clients[n].

    matrix_ND: float32 parameter updates (trained minus reference), in RAM, on a GPU or in a memory map.
    buffers_NB: float32 buffer values as the clients sent them. num_examples_N: float64, training images per client.
    layout: names of the columns, where they are needed (None in tests on bare matrices).
    """

    matrix_ND: Tensor
    buffers_NB: Tensor
    num_examples_N: Tensor
    clients: tuple[int, ...]
    layout: Layout | None = None

    @classmethod
    def of(cls, matrix_ND: Tensor, num_examples_N: Tensor | None = None) -> Updates:
        """Updates from a bare matrix: clients 0..N-1, no buffers, one example each unless told."""
        n = len(matrix_ND)
        counts = torch.ones(n, dtype=torch.float64) if num_examples_N is None else num_examples_N.to(torch.float64)
        return cls(matrix_ND, torch.zeros(n, 0), counts, tuple(range(n)))

    def __len__(self) -> int:
        return len(self.clients)

    def blocks(self, width: int = BLOCK) -> Iterator[tuple[slice, Tensor]]:
        """Column blocks (slice, (N, <= width)) from left to right, for coordinate-wise rules."""
        for start in range(0, self.matrix_ND.shape[1], width):
            part = slice(start, min(start + width, self.matrix_ND.shape[1]))
            yield part, self.matrix_ND[:, part]

    def gram(self) -> Tensor:
        """The (N, N) float64 matrix of inner products, accumulated block by block: all that distance rules need."""
        total = self.matrix_ND.new_zeros((len(self), len(self)), dtype=torch.float64)
        for _, block_Nb in self.blocks(BLOCK // 8):
            wide = block_Nb.to(torch.float64)
            total += wide @ wide.T
        return total

    def combine(self, weights_N: Tensor) -> Tensor:
        """The (D,) weighted sum of the rows (weights are used as given). Rows of weight 0 are left out, so 0 x inf is 0."""
        chosen = weights_N.nonzero().reshape(-1)
        out = self.matrix_ND.new_empty(self.matrix_ND.shape[1])
        for part, block_Nb in self.blocks():
            out[part] = weights_N[chosen].to(block_Nb) @ block_Nb[chosen]
        return out


def squared_distances(gram_NN: Tensor) -> Tensor:
    """Squared Euclidean distances (N, N) between rows from their Gram matrix; tiny negatives of rounding become 0."""
    squares_N = gram_NN.diagonal()
    return (squares_N[:, None] + squares_N[None, :] - 2 * gram_NN).clamp_(min=0).fill_diagonal_(0)


def shares(values_N: Tensor) -> Tensor:
    """Non-negative values as shares that sum to 1 (all zeros stay zeros)."""
    wide = values_N.to(torch.float64)
    total = wide.sum()
    return wide / total if total > 0 else wide


def merge_buffers(layout: Layout | None, buffers_NB: Tensor, weights_N: Tensor) -> Tensor:
    """The (B,) weighted mean of buffers; a running variance also gets the spread between the clients' running means,
    so that the merged statistics are those of the weighted mixture: var = sum w (var_n + (mean_n - mean)^2).

    weights_N are shares that sum to 1.
    """
    weights = weights_N.to(buffers_NB)
    mean_B = weights @ buffers_NB
    if layout is None:
        return mean_B
    spread_B = weights @ (buffers_NB - mean_B) ** 2
    merged, spread = _views(layout.buffers, mean_B), _views(layout.buffers, spread_B)
    for name in merged:
        if name.endswith("running_var") and (partner := name.removesuffix("var") + "mean") in spread:
            merged[name] += spread[partner]
    return mean_B


def finish(round: Round, update_D: Tensor, weights_N: Tensor, **record: Any) -> Aggregate:
    """The Aggregate of a rule: reference + update for the parameters, buffers merged by the clients' influence.

    With no influence left the reference's buffers stay. `record`: Aggregate's `extras` and `memory`.
    """
    reference = round.reference
    weights_N = shares(weights_N.cpu())
    buffers = reference.buffers
    if weights_N.sum() > 0:
        buffers = merge_buffers(round.updates.layout, round.updates.buffers_NB.cpu(), weights_N)
    parameters = reference.parameters + update_D.to(reference.parameters)
    return Aggregate(State(parameters, buffers), weights_N, **record)
