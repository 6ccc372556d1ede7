"""Krum and Multi-Krum: trust the updates that lie closest to their nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import squared_distances
from fedrobust.errors import ConfigError
from fedrobust.utils import validation


def krum(f: int = 3) -> Strategy:
    """The one update with the smallest score (Blanchard et al., NeurIPS 2017): the sum of squared
    distances to its N - f - 2 nearest others. Tolerates f attackers among N > 2f + 2 clients; the
    first client wins a tie."""
    validation.number("strategy.f", f, low=0, integer=True)
    return Strategy("krum", lambda round: _select(round, f, 1), min_clients=2 * f + 3)


def multi_krum(f: int = 3, m: int | None = None) -> Strategy:
    """The unweighted mean of the m updates with the smallest Krum scores (same paper, section 4 and
    its experiments).

    m: None keeps N - f, as the paper's experiments do; 1 is Krum, and m above N - f must let
    attackers in.
    """
    validation.number("strategy.f", f, low=0, integer=True)
    if m is not None:
        validation.number("strategy.m", m, low=1, integer=True)
    return Strategy(
        "multi_krum",
        lambda round: _select(round, f, _kept(len(round.updates), f, m)),
        min_clients=2 * f + 3,
    )


def _kept(num_clients: int, f: int, m: int | None) -> int:
    if m is not None and m > num_clients:
        raise ConfigError(
            f"strategy.m={m}: only {num_clients} clients replied; try strategy.m=null (all but f)"
        )
    return num_clients - f if m is None else m


def _select(round: Round, f: int, m: int) -> Aggregate:
    scores_N = krum_scores(squared_distances(round.updates.gram()).cpu(), f)
    weights_N = torch.zeros_like(scores_N)
    weights_N[scores_N.argsort(stable=True)[:m]] = 1 / m
    return make_aggregate(
        round, round.updates.combine(weights_N), weights_N, extras={"krum_score": scores_N.tolist()}
    )


def krum_scores(squared_NN: Tensor, f: int) -> Tensor:
    """(N,) sums of squared distances to the N - f - 2 nearest others, from the (N, N) matrix of
    squared distances.

    An update so large that its distances are undefined is infinitely far from all others.
    """
    n = len(squared_NN)
    far_NN = squared_NN.nan_to_num(nan=torch.inf, posinf=torch.inf).fill_diagonal_(torch.inf)
    return far_NN.sort(dim=1).values[:, : n - f - 2].sum(dim=1)
