"""Gram matrices: inner products of updates in float64, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def accumulate(strips: Iterable[Tensor], total_NN: Tensor) -> Tensor:
    """Add to the float64 matrix the (N, N) inner products of rows that come in strips (N, <= b) of
    columns; returns it.

    The rows are widened in memory that is used again: fresh memory would cost a third of the whole.
    """
    room_Nb = total_NN[:, :0]
    for strip_Nb in strips:
        if room_Nb.shape[1] < strip_Nb.shape[1]:
            room_Nb = total_NN.new_empty(strip_Nb.shape)
        total_NN += _products(room_Nb[:, : strip_Nb.shape[1]].copy_(strip_Nb))
    return total_NN


def _products(wide_Nb: Tensor) -> Tensor:
    """(N, N) inner products of float64 rows. numpy, unlike torch, computes only one of the two
    equal halves."""
    if wide_Nb.device.type != "cpu":
        return wide_Nb @ wide_Nb.T
    rows_Nb = wide_Nb.numpy()
    with np.errstate(invalid="ignore"):  # inf times 0 is nan, as everywhere
        return torch.from_numpy(rows_Nb @ rows_Nb.T)


def squared_to(gram_NN: Tensor, weights_N: Tensor) -> Tensor:
    """(N,) squared distances of all rows to the point sum_n w_n x_n: |x_n|^2 - 2 x_n'p + |p|^2;
    tiny negatives of rounding become 0.

    In this form a huge row of tiny weight costs the others no digits: their distances hold it only
    as weight times product.
    """
    products_N = gram_NN @ weights_N
    return (gram_NN.diagonal() - 2 * products_N + weights_N @ products_N).clamp_(min=0)


def center_gram(gram_NN: Tensor, shares_N: Tensor) -> Tensor:
    """(N, N) inner products of the rows after their weighted mean (shares that sum to 1) was taken
    from each."""
    products_N = gram_NN @ shares_N
    return gram_NN - products_N[:, None] - products_N[None, :] + shares_N @ products_N
