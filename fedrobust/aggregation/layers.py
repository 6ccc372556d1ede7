"""Updates layer by layer: which columns belong to a layer (a named tensor of the model), and the
largest values of a row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from fedrobust.aggregation.updates import Updates, column_strips


def layer_slices(updates: Updates) -> list[slice]:
    """The columns of each of the model's parameters, from left to right; one slice with all columns
    where they have no names."""
    if updates.layout is None:
        return [slice(0, updates.matrix_ND.shape[1])]
    sizes = [shape.numel() for _, shape in updates.layout.parameters]
    ends = list(accumulate(sizes))
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def weight_layers(updates: Updates) -> list[bool]:
    """For each layer, whether it holds the weights of a linear layer or a convolution, not a bias
    or the parameters of a normalisation; True where the columns have no names."""
    if updates.layout is None:
        return [True]
    return [len(shape) > 1 for _, shape in updates.layout.parameters]


def layer_strips(updates: Updates) -> Iterator[tuple[int, slice, Tensor]]:
    """Column strips (number of the layer, columns, (N, b) values) of some megabytes, none of which
    reaches over two layers; read-only, each until the next."""
    slices, layer = layer_slices(updates), 0
    for part, block_Nb in updates.blocks():
        for inner, strip_Nb in column_strips(block_Nb):
            start, stop = part.start + inner.start, part.start + inner.stop
            place = start
            while place < stop:
                while slices[layer].stop <= place:
                    layer += 1
                end = min(stop, slices[layer].stop)
                yield layer, slice(place, end), strip_Nb[:, place - start : end - start]
                place = end


def largest_bounds(
    updates: Updates, share: float, columns: Sequence[slice] | None = None
) -> Tensor:
    """(N,) the k-th largest magnitude of each row, with k = share x columns, rounded down, at least
    1: as many values, and those that equal the last, are at least as large.

    columns: the only ones that are looked at. One row is in memory at a time.
    """
    bounds = []
    for n in range(len(updates)):
        row_D = updates.row(n)
        values_d = row_D if columns is None else torch.cat([row_D[part] for part in columns])
        kept = max(1, math.floor(share * len(values_d) + 1e-9))
        bounds.append(values_d.abs().kthvalue(len(values_d) - kept + 1).values)
    return torch.stack(bounds)
