"""Nearest-neighbour mixing."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedrobust.aggregation.composition import Preaggregation
from fedrobust.aggregation.updates import squared_distances
from fedrobust.utils import validation


def nnm(f: int = 3) -> Preaggregation:
    """Every update becomes the mean of the N - f updates nearest to it, itself included (Allouah et
    al., AISTATS 2023): y_i = 1/(N - f) sum of the x_j with the N - f smallest |x_i - x_j|.

    It makes the updates less heterogeneous before a rule that tolerates f attackers; f < N/2. The
    first clients win a tie.
    """
    validation.number("preaggregation.f", f, low=0, integer=True)

    def mix(gram_NN: Tensor, clients: tuple[int, ...], generator: Generator) -> Tensor:
        kept = len(gram_NN) - f
        nearest_NM = squared_distances(gram_NN).sort(dim=1, stable=True).indices[:, :kept]
        return torch.zeros_like(gram_NN).scatter_(1, nearest_NM, 1 / kept)

    return Preaggregation("nnm", mix, min_clients=2 * f + 1)
