"""Nearest-neighbour mixing."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedrobust.aggregation.composition import Preaggregation
from fedrobust.aggregation.updates import squared_distances
from fedrobust.utils.validation import Count, check_settings


@check_settings("preaggregation")
def nnm(f: Count = 3) -> Preaggregation:
    """Nearest-neighbour mixing: every update becomes the mean of the N - f updates nearest to it,
    itself included: y_i = 1/(N - f) sum of the x_j with the N - f smallest |x_i - x_j|. The first
    clients win a tie.

    It makes the updates less heterogeneous before a rule that tolerates f attackers.

    Args:
        f: attackers to tolerate, among at least 2f + 1 clients.

    Returns:
        The map to the mixed updates.

    Raises:
        ConfigError: f is out of its range.

    Reference:
        Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, AISTATS 2023.

    Needs:
        at least 2f + 1 clients a round
    """

    def mix(gram_NN: Tensor, clients: tuple[int, ...], generator: Generator) -> Tensor:
        kept = len(gram_NN) - f
        nearest_NM = squared_distances(gram_NN).sort(dim=1, stable=True).indices[:, :kept]
        return torch.zeros_like(gram_NN).scatter_(1, nearest_NM, 1 / kept)

    return Preaggregation("nnm", mix, min_clients=2 * f + 1)
