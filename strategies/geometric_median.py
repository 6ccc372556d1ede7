"""Geometric median (RFA): the point with the least sum of distances to the updates."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedrobust.aggregation.gram import squared_to
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import normalize
from fedrobust.utils.validation import Positive, PositiveCount, check_settings

STILL = 1e-9  # a step that changes no weight by a greater part of itself is the last


@check_settings("strategy")
def geometric_median(
    weighting: Literal["uniform", "examples"] = "uniform",
    smoothing: Positive = 1e-6,
    iterations: PositiveCount = 1000,
) -> Strategy:
    """argmin_v sum_n a_n |v - x_n| by smoothed Weiszfeld steps: v <- sum_n b_n x_n / sum_n b_n with
    b_n = a_n / max(smoothing, |v - x_n|), from the weighted mean on, until nothing moves any more.

    Tolerates attackers of less than half the weight. All iterates are weighted sums of the updates,
    so the steps happen in the space of the Gram matrix and cost nothing beside it; the paper stops
    after 3, each a round of secure aggregation.

    Args:
        weighting: uniform: all clients weigh the same (a_n = 1/N); examples: by their numbers of
            training images, as in the paper, which attackers can forge.
        smoothing: distances below this length count as this (the paper's nu).
        iterations: at most so many Weiszfeld steps.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Pillutla, Kakade, Harchaoui, IEEE Transactions on Signal Processing 2022.
    """

    def rule(round: Round) -> Aggregate:
        counts_N = round.updates.num_examples_N
        start_N = normalize(counts_N if weighting == "examples" else torch.ones_like(counts_N))
        weights_N = weiszfeld(round.updates.gram().cpu(), start_N, smoothing, iterations)
        return make_aggregate(round, round.updates.combine(weights_N), weights_N)

    return Strategy("geometric_median", rule)


def weiszfeld(gram_NN: Tensor, shares_N: Tensor, smoothing: float, iterations: int) -> Tensor:
    """(N,) float64 weights of the rows in their smoothed geometric median, summing to 1. gram_NN:
    (N, N) float64; shares_N: a_n."""
    weights_N = shares_N
    for _ in range(iterations):
        before_N, weights_N = (
            weights_N,
            normalize(shares_N / squared_to(gram_NN, weights_N).sqrt().clamp(min=smoothing)),
        )
        if ((weights_N - before_N).abs() <= STILL * before_N).all():
            break
    return weights_N
