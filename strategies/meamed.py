"""Meamed: in every coordinate the mean of the values nearest to the median."""

from __future__ import annotations

import functools

from fedrobust.aggregation.coordinatewise import (
    SelectedRange,
    Selection,
    SortedColumns,
    any_of,
    coordinatewise,
)
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.utils.validation import Count, check_settings


@check_settings("strategy")
def meamed(f: Count = 3) -> Strategy:
    """Mean around median: in every coordinate the mean of the N - f values nearest to the median.

    The median of an even number is the mean of the middle two; of two values that are equally far
    the smaller is kept. The influence reported of a client is the mean over coordinates of its
    share in that mean, as for the trimmed mean.

    Args:
        f: attackers to tolerate, among more than 2f clients.

    Returns:
        The rule.

    Raises:
        ConfigError: f is out of its range.

    Reference:
        Xie, Koyejo, Gupta, 2018, arXiv:1802.10116.

    Needs:
        at least 2f + 1 clients a round
    """

    def rule(round: Round) -> Aggregate:
        n = len(round.updates)
        update_D, influence_N = coordinatewise(round.updates, around_median(n, n - f))
        return make_aggregate(round, update_D, influence_N)

    return Strategy("meamed", rule, min_clients=2 * f + 1)


def around_median(n: int, kept: int) -> Selection:
    """The mean of the `kept` of n values that are nearest to their median.

    In ascending order these are neighbours, one in the middle among them, so only values at most
    kept - 1 places from the middle count: `first` ... `last` - 1. Of each pair (i, i + kept) of
    these one is kept, the one nearer to the median: going up, the distance of i falls and that of i
    + kept grows, so that what is kept has no gap. Those without a partner are always kept.
    """
    first, last = max((n - 1) // 2 - kept + 1, 0), min(n // 2 + kept, n)

    def pick(ordered: SortedColumns) -> SelectedRange:
        rows, xp = ordered.rows, ordered.xp
        median_b = rows[n // 2] if n % 2 else rows[n // 2 - 1] * 0.5 + rows[n // 2] * 0.5
        chosen, dropped, below_b = [], [], first
        for place in range(first, last - kept):
            lower_b, upper_b = rows[place], rows[place + kept]
            up_b = upper_b - median_b < median_b - lower_b
            chosen.append(xp.where(up_b, upper_b, lower_b))
            dropped.append(xp.where(up_b, lower_b, upper_b))
            below_b = below_b + up_b
        always = range(last - kept, first + kept)
        edges = [
            *chosen,
            *(rows[place] for place in always[:1]),
            *(rows[place] for place in always[-1:]),
        ]
        low_b, high_b = functools.reduce(xp.minimum, edges), functools.reduce(xp.maximum, edges)
        total_b = ordered.total(always.start, always.stop) if always else 0.0
        for value_b in chosen:
            total_b = total_b + value_b
        outside = [*dropped, *(rows[place] for place in (first - 1, last) if 0 <= place < n)]
        return SelectedRange(
            total_b / kept,
            low_b,
            high_b,
            below_b,
            any_of([(value_b == low_b) | (value_b == high_b) for value_b in outside]),
        )

    return Selection(kept, range(max(first - 1, 0), min(last + 1, n)), pick)
