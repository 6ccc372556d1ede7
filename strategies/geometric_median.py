"""Geometric median (RFA): the point with the least sum of distances to the updates."""

from __future__ import annotations

from typing import Literal

import torch

from fedrobust.aggregation.distance_sum import minimize_distances
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import normalize
from fedrobust.utils.validation import Positive, PositiveCount, check_settings


@check_settings("strategy")
def geometric_median(
    weighting: Literal["uniform", "examples"] = "uniform",
    smoothing: Positive = 1e-6,
    iterations: PositiveCount = 1000,
) -> Strategy:
    """The point with the least sum of distances to the updates, argmin_v sum_n a_n |v - x_n|.

    The first ten steps from the weighted mean on are smoothed Weiszfeld steps, v <- sum_n b_n x_n /
    sum_n b_n with b_n = a_n / max(smoothing, |v - x_n|); Newton steps follow, until one is shorter
    than 1e-9 of the median distance to the updates.

    Tolerates attackers of less than half the weight. Close to half, and close to an update,
    Weiszfeld steps alone are so short that thousands do not suffice. All iterates are weighted sums
    of the updates, so the steps happen in the space of the Gram matrix and cost nothing beside it;
    the paper stops after 3, each a round of secure aggregation. Distances that are below 1e-8 of
    the updates' lengths are lost in the rounding of that matrix. Where `iterations` end the steps
    before the tolerance is reached, the round's `extras` say so: `unfinished_step`, the length of
    the last step as a part of the median distance.

    Args:
        weighting: uniform: all clients weigh the same (a_n = 1/N); examples: by their numbers of
            training images, as in the paper, which attackers can forge.
        smoothing: distances below this length count as this (the paper's nu).
        iterations: at most so many steps.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Pillutla, Kakade, Harchaoui, IEEE Transactions on Signal Processing 2022.
    """

    def rule(round: Round) -> Aggregate:
        counts_N = round.updates.num_examples_N
        shares_N = normalize(counts_N if weighting == "examples" else torch.ones_like(counts_N))
        found = minimize_distances(round.updates.gram().cpu(), shares_N, smoothing, iterations)
        update_D = round.updates.combine(found.weights_N)
        extras = {} if found.converged else {"unfinished_step": found.last_step}
        return make_aggregate(round, update_D, found.weights_N, extras=extras)

    return Strategy("geometric_median", rule)
