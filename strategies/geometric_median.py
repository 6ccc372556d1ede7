"""Geometric median (RFA): the point with the least sum of distances to the updates."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.aggregation.gram import squared_to
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import normalize
from fedrobust.utils import validation

STILL = 1e-9  # a step that changes no weight by a greater part of itself is the last


def geometric_median(
    weighting: str = "uniform", smoothing: float = 1e-6, iterations: int = 1000
) -> Strategy:
    """argmin_v sum_n a_n |v - x_n| (Pillutla, Kakade, Harchaoui, IEEE TSP 2022) by their smoothed
    Weiszfeld steps: v <- sum_n b_n x_n / sum_n b_n with
    b_n = a_n / max(smoothing, |v - x_n|), from the
    weighted mean on, until nothing moves any more.

    Tolerates attackers of less than half the weight. All iterates are weighted sums of the updates,
    so the steps happen in the space of the Gram matrix and cost nothing beside it; the paper stops
    after 3, each a round of secure aggregation. weighting: "uniform" (a_n = 1/N), or "examples":
    the paper's shares of the training images, which an attacker can forge. smoothing
    (the paper's nu): length in which
    updates are measured, above 0. iterations: at most so many steps.
    """
    validation.choice("strategy.weighting", weighting, ("uniform", "examples"))
    validation.number("strategy.smoothing", smoothing, low=0, open_low=True)
    validation.number("strategy.iterations", iterations, low=1, integer=True)

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
