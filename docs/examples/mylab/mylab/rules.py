"""Server rules."""

from typing import Annotated

from pydantic import Field

from fedrobust.aggregation.norms import norms
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.utils.validation import check_settings


@check_settings("strategy")
def mylab_rule(longest: Annotated[float, Field(ge=1)] = 1.5) -> Strategy:
    """Every client counts alike, but much longer updates are scaled down.

    Args:
        longest: allowed length of an update, in median lengths of the round.
    """

    def rule(round: Round) -> Aggregate:
        lengths_N = norms(round.updates)
        limit = longest * lengths_N.median()
        weights_N = (limit / lengths_N.clamp(min=1e-12)).clamp(max=1) / len(round.updates)
        return make_aggregate(round, round.updates.combine(weights_N), weights_N)

    return Strategy("mylab_rule", rule)
