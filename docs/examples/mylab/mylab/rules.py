"""Server rules."""

from fedrobust.aggregation.norms import norms
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.utils.validation import Positive, check_settings


@check_settings("strategy")
def mylab_rule(length: Positive = 1.0) -> Strategy:
    """Every client counts alike, but longer updates are scaled down.

    Args:
        length: largest Euclidean length of an update.
    """

    def rule(round: Round) -> Aggregate:
        weights_N = (length / norms(round.updates)).clamp(max=1) / len(round.updates)
        return make_aggregate(round, round.updates.combine(weights_N), weights_N)

    return Strategy("mylab_rule", rule)
