"""Norm clipping: no update may be longer than a bound."""

from __future__ import annotations

from typing import Literal

import torch

from fedrobust.aggregation.norms import norms
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import normalize
from fedrobust.utils.validation import Positive, check_settings


@check_settings("strategy")
def norm_clipping(
    tau: Positive | None = None, weighting: Literal["uniform", "examples"] = "uniform"
) -> Strategy:
    """Norm clipping: the mean of the updates, longer ones shortened: x_n min(1, tau / |x_n|).

    It limits what f attackers can do, each to tau/N, and excludes no client. Weights reported: what
    is left of each client's share, brought to sum 1.

    Args:
        tau: length to which longer updates are clipped; null: the median length of the round,
            beyond the attackers' control while they are fewer than half.
        weighting: uniform: all clients weigh the same; examples: by their numbers of training
            images, which attackers can forge.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Sun, Kairouz, Suresh, McMahan, 2019, arXiv:1911.07963, norm thresholding.
    """

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
