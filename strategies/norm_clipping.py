"""Norm clipping: no update may be longer than a bound."""

from __future__ import annotations

import torch

from fedrobust.aggregation.norms import norms
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import normalize
from fedrobust.utils import validation


def norm_clipping(tau: float | None = None, weighting: str = "uniform") -> Strategy:
    """The mean of x_n min(1, tau / |x_n|) (Sun, Kairouz, Suresh, McMahan, 2019, arXiv:1911.07963:
    norm thresholding).

    It limits what f attackers can do, each to tau/N, and excludes nobody. tau: length above 0 in
    which updates are measured; None: the median length of the round, beyond the attackers' control
    while they are fewer than half. weighting: "uniform", or "examples" as in federated averaging,
    which an attacker can forge. Weights reported: what is left of each client's share, brought to
    sum 1.
    """
    if tau is not None:
        validation.number("strategy.tau", tau, low=0, open_low=True)
    validation.choice("strategy.weighting", weighting, ("uniform", "examples"))

    def rule(round: Round) -> Aggregate:
        counts_N = round.updates.num_examples_N
        shares_N = normalize(counts_N if weighting == "examples" else torch.ones_like(counts_N))
        lengths_N = norms(round.updates)
        bound = float(lengths_N.quantile(0.5)) if tau is None else tau
        kept_N = torch.where(lengths_N > bound, bound / lengths_N, torch.ones_like(lengths_N))
        weights_N = shares_N * kept_N
        return make_aggregate(
            round,
            round.updates.combine(weights_N),
            weights_N,
            extras={"kept_length": kept_N.tolist(), "clipping_bound": bound},
        )

    return Strategy("norm_clipping", rule)
