"""Lengths of updates and their products with a vector; limits on what one client can weigh: the
length of its update and the number of images it claims."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.aggregation.updates import Updates, column_strips


def norms(updates: Updates) -> Tensor:
    """(N,) float64 lengths of the updates."""
    squares_N = updates.matrix_ND.new_zeros(len(updates), dtype=torch.float64)
    for _, block_Nb in updates.blocks():
        for _, strip_Nb in column_strips(block_Nb):
            squares_N += strip_Nb.to(torch.float64).square_().sum(dim=1)
    return squares_N.sqrt().cpu()


def inner_products(updates: Updates, vector_D: Tensor) -> Tensor:
    """(N,) float64 inner products of the updates with a vector, on the CPU."""
    total_N = updates.matrix_ND.new_zeros(len(updates), dtype=torch.float64)
    for part, block_Nb in updates.blocks():
        vector_b = vector_D[part].to(total_N)
        for inner, strip_Nb in column_strips(block_Nb):
            total_N += strip_Nb.to(torch.float64) @ vector_b[inner]
    return total_N.cpu()


def to_median(norms_N: Tensor) -> Tensor:
    """(N,) factors in [0, 1] that bring every length down to the median length; shorter ones
    stay."""
    median = norms_N.quantile(0.5)
    return torch.where(norms_N > median, median / norms_N, torch.ones_like(norms_N))


def clipped_counts(num_examples_N: Tensor) -> Tensor:
    """Numbers of images clipped to their 10 % and 90 % quantiles: a claim of millions buys no more
    than the largest honest hospitals."""
    low, high = num_examples_N.quantile(torch.tensor([0.1, 0.9], dtype=num_examples_N.dtype))
    return num_examples_N.clamp(low, high)
