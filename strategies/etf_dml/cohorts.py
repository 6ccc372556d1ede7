"""Random cohorts: mutual learning among few, and one vote for each cohort however many attackers it
holds.

With a share p of attackers a cohort of c is lost when most of its members are
attackers; the trimmed mean over cohorts outvotes the lost ones as long as they are fewer than it
cuts off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from fedrobust.strategies.trimmed_mean import coordinatewise_trimmed
from pydantic import Field
from torch import Generator, Tensor

from fedrobust.aggregation.storage import fill
from fedrobust.aggregation.updates import Updates, normalize
from fedrobust.utils.validation import check_settings

Groups = Sequence[Sequence[int]]  # rows of clients, cohort by cohort


@check_settings("strategy")
@dataclass(frozen=True, slots=True)
class CohortSettings:
    """Whether clients are divided into cohorts, for many of them.

    Attributes:
        cohort_size: least number of members of a random cohort, drawn anew every round; mutual
            learning stays inside, and each cohort has one vote. It needs cohort_size / cohort_trim
            clients a round. null: everyone together.
        cohort_trim: with cohorts: share of the votes cut off on each side of every coordinate
            before their mean is taken.
    """

    cohort_size: Annotated[int, Field(ge=3)] | None = None
    cohort_trim: Annotated[float, Field(ge=0, le=0.49)] = 0.2

    @property
    def least_clients(self) -> int:
        """So many that at least one vote is cut off on each side; with a trim of 0 one full cohort;
        without cohorts 1."""
        parts = math.ceil(1 / self.cohort_trim - 1e-9) if self.cohort_trim else 1
        return 1 if self.cohort_size is None else self.cohort_size * parts


def draw_cohorts(num_clients: int, size: int, generator: Generator) -> Tensor:
    """(N,) int64: the cohort of each client. As many cohorts of at least `size` as there can be
    (one, where there are fewer clients), their sizes differing by at most one."""
    cohort_N = torch.empty(num_clients, dtype=torch.int64)
    cohort_N[torch.randperm(num_clients, generator=generator)] = torch.arange(num_clients) % max(
        1, num_clients // size
    )
    return cohort_N


def cohort_rows(cohort_N: Tensor, weights_N: Tensor) -> list[list[int]]:
    """The rows of each cohort's clients that have a weight; cohorts without any are left out."""
    numbers = sorted(set(cohort_N.tolist()))
    members = [
        ((cohort_N == number) & (weights_N > 0)).nonzero().reshape(-1).tolist()
        for number in numbers
    ]
    return [group for group in members if group]


def _sum(weights: Sequence[float], rows: Iterable[Tensor], out: Tensor) -> None:
    """The weighted sum of (D,) rows, into `out`."""
    out.zero_()
    for weight, row_D in zip(weights, rows, strict=True):
        out.add_(row_D, alpha=weight)


def vote(
    updates: Updates,
    groups: Groups,
    weights_N: Tensor,
    of: Callable[[Sequence[int]], Iterable[Tensor]],
    trim: float,
) -> tuple[Tensor, Tensor]:
    """The (D,) coordinate-wise trimmed mean of the cohorts' votes, and the (N,) float64 influence
    of each client.

    A cohort's vote is the mean of its members' updates by their weights (`of` gives the updates of
    a group, in its order), and counts as much as any other: floor(trim x cohorts) of them are cut
    off on each side of every coordinate. A client's influence is the mean over coordinates of its
    cohort's share in what is left, times its own share in the cohort: the fractions in which the
    clients' updates enter the result, averaged over its coordinates; their sum is 1. Memory: two
    (D,) vectors, and one row for each cohort, within the budget of `updates`.
    """
    votes_GD = updates.allocate(len(groups))
    own_N, seat_N = torch.zeros_like(weights_N), torch.zeros(len(weights_N), dtype=torch.int64)
    for seat, group in enumerate(groups):
        members = torch.tensor(group)
        own_N[members], seat_N[members] = normalize(weights_N[members]).to(own_N), seat
        fill(votes_GD[seat], partial(_sum, [float(own_N[n]) for n in group], of(group)))
    update_D, influence_G = coordinatewise_trimmed(
        Updates.of(votes_GD), math.floor(trim * len(groups) + 1e-9)
    )
    return update_D, influence_G[seat_N] * own_N
