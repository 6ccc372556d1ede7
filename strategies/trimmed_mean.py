"""Coordinate-wise trimmed mean; the median is its extreme case."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust import checks
from fedrobust.types import Aggregate, Round, Strategy
from fedrobust.vectors import finish

WIDTH = 1 << 16  # columns sorted at once: what stays in the caches is three times as fast as `vectors.BLOCK`


def trimmed_mean(f: int = 3) -> Strategy:
    """In every coordinate the mean of what is left without the f smallest and the f largest values
    (Yin et al., ICML 2018, definition 2). Needs more than 2f clients and tolerates f attackers.

    The influence reported of a client is the mean over coordinates of its share in that mean; clients with equal values
    at an edge of the kept range share what is kept there. Numbers of images are not used: an attacker could forge them.
    """
    checks.number("strategy.f", f, low=0, integer=True)
    return Strategy("trimmed_mean", lambda round: trim(round, f), min_clients=2 * f + 1)


def trim(round: Round, f: int) -> Aggregate:
    """The trimmed mean of a round's updates, f values dropped on each side (2f < N)."""
    updates = round.updates
    out_D = torch.empty_like(updates.matrix_ND[0])
    influence_N = torch.zeros(len(updates), dtype=torch.float64)
    for part, block_Nb in updates.blocks(WIDTH):
        kept_Mb = block_Nb.sort(dim=0).values[f : len(updates) - f]
        out_D[part] = kept_Mb.mean(dim=0)
        influence_N += _influence(block_Nb, kept_Mb).cpu()
    return finish(round, out_D, influence_N if out_D.numel() else influence_N + 1)


def _influence(block_Nb: Tensor, kept_Mb: Tensor) -> Tensor:
    """(N,) float64: how many of the kept values came from each client, summed over the columns."""
    low_b, high_b = kept_Mb[0], kept_Mb[-1]
    inside_N = ((block_Nb > low_b) & (block_Nb < high_b)).sum(dim=1, dtype=torch.float64)
    return inside_N + _at_edge(block_Nb, kept_Mb, low_b).sum(dim=1) + (_at_edge(block_Nb, kept_Mb, high_b) * (high_b > low_b)).sum(dim=1)


def _at_edge(block_Nb: Tensor, kept_Mb: Tensor, edge_b: Tensor) -> Tensor:
    """(N, b) float64: the share of each client in the kept values that equal the edge."""
    equal_Nb = block_Nb == edge_b
    return equal_Nb * ((kept_Mb == edge_b).sum(dim=0) / equal_Nb.sum(dim=0, dtype=torch.float64))
