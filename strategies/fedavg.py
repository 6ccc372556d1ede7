"""Federated averaging: the weighted mean of the updates."""

from __future__ import annotations

from typing import Literal

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import normalize
from fedrobust.utils.validation import check_settings


@check_settings("strategy")
def fedavg(weighting: Literal["examples", "uniform"] = "examples") -> Strategy:
    """The mean of the updates. No robustness: one client can move it anywhere.

    Args:
        weighting: examples: clients weigh by their number of training images, which attackers can
            forge; uniform: all weigh the same.

    Returns:
        The rule.

    Raises:
        ConfigError: the weighting is unknown.

    Reference:
        McMahan, Moore, Ramage, Hampson, Agüera y Arcas, AISTATS 2017, algorithm 1.
    """

    def rule(round: Round) -> Aggregate:
        counts_N = round.updates.num_examples_N
        weights_N = normalize(
            counts_N if weighting == "examples" else counts_N.new_ones(len(counts_N))
        )
        return make_aggregate(round, round.updates.combine(weights_N), weights_N)

    return Strategy("fedavg", rule, sums=weighting)
