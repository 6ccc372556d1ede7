"""Federated averaging: the weighted mean of the updates."""

from __future__ import annotations

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import normalize
from fedrobust.utils import validation


def fedavg(weighting: str = "examples") -> Strategy:
    """The mean of the updates (McMahan et al., AISTATS 2017, algorithm 1). No robustness: one
    client can move it anywhere.

    weighting: "examples" weighs a client by the number of its training images, "uniform" gives each
    the same.
    """
    validation.choice("strategy.weighting", weighting, ("examples", "uniform"))

    def rule(round: Round) -> Aggregate:
        counts_N = round.updates.num_examples_N
        weights_N = normalize(
            counts_N if weighting == "examples" else counts_N.new_ones(len(counts_N))
        )
        return make_aggregate(round, round.updates.combine(weights_N), weights_N)

    return Strategy("fedavg", rule, sums=weighting)
