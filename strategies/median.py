"""Coordinate-wise median."""

from __future__ import annotations

from fedrobust.strategies.trimmed_mean import trim

from fedrobust.aggregation.round import Aggregate, Round, Strategy


def median() -> Strategy:
    """In every coordinate the median of the clients' values, for an even number the mean of the two
    middle ones: the trimmed mean that keeps one or two values.

    The influence reported of a client is the share of coordinates in which it was the median (half,
    where it was one of two; clients with equal values share).

    Returns:
        The rule.

    Reference:
        Yin, Chen, Ramchandran, Bartlett, ICML 2018, definition 1.
    """
    return Strategy("median", _rule)


def _rule(round: Round) -> Aggregate:
    return trim(round, (len(round.updates) - 1) // 2)
