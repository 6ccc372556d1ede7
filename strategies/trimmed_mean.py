"""Coordinate-wise trimmed mean; the median is its extreme case."""

from __future__ import annotations

from torch import Tensor

from fedrobust.aggregation.coordinatewise import (
    SelectedRange,
    Selection,
    SortedColumns,
    any_of,
    coordinatewise,
)
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import Updates
from fedrobust.utils.validation import Count, check_settings


@check_settings("strategy")
def trimmed_mean(f: Count = 3) -> Strategy:
    """In every coordinate the mean of what is left without the f smallest and the f largest values.

    The influence reported of a client is the mean over coordinates of its share in that mean;
    clients with equal values at an edge of the kept range share what is kept there. Numbers of
    images are not used: an attacker could forge them.

    Args:
        f: values dropped on each side of every coordinate, and attackers tolerated; needs more than
            2f clients.

    Returns:
        The rule.

    Raises:
        ConfigError: f is out of its range.

    Reference:
        Yin, Chen, Ramchandran, Bartlett, ICML 2018, definition 2.

    Needs:
        at least 2f + 1 clients a round
    """
    return Strategy("trimmed_mean", lambda round: trim(round, f), min_clients=2 * f + 1)


def trim(round: Round, f: int) -> Aggregate:
    """The trimmed mean of a round's updates, f values dropped on each side (2f < N)."""
    update_D, influence_N = coordinatewise_trimmed(round.updates, f)
    return make_aggregate(round, update_D, influence_N)


def coordinatewise_trimmed(updates: Updates, f: int) -> tuple[Tensor, Tensor]:
    """The (D,) trimmed mean, f values dropped on each side (2f < N), and the (N,) float64 influence
    of each row, summing to 1.

    The mean of the sorted values is taken in float64, so the order of the clients cannot change a
    bit of it.
    """
    return coordinatewise(updates, middle(len(updates), f))


def middle(n: int, f: int) -> Selection:
    """The mean of n values without the f smallest and the f largest."""
    last, kept = n - f - 1, n - 2 * f

    def pick(ordered: SortedColumns) -> SelectedRange:
        low_b, high_b = ordered.rows[f], ordered.rows[last]
        tied = [ordered.rows[f - 1] == low_b, ordered.rows[last + 1] == high_b] if f else []
        return SelectedRange(ordered.mean(f, last + 1), low_b, high_b, f, any_of(tied))

    places = range(max(f - 1, 0), min(last + 2, n))
    return Selection(kept, places, pick, range(f, last + 1))
