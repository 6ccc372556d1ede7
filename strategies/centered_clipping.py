"""Centered clipping: a few averaging steps from the last aggregate, in which no update may pull
further than a bound."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.aggregation.gram import squared_to
from fedrobust.aggregation.norms import inner_products
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import Updates, column_strips
from fedrobust.utils.validation import Positive, PositiveCount, check_settings


@check_settings("strategy")
def centered_clipping(tau: Positive | None = None, iterations: PositiveCount = 3) -> Strategy:
    """Centred clipping: steps v <- v + (1/N) sum_n (x_n - v) min(1, tau / |x_n - v|), from the
    last round's aggregated update on, in the first round from 0. In the paper the x_n are the
    clients' momenta.

    One attacker moves a step by tau/N at most, from any place. The old centre is one row more
    of the Gram matrix, so that steps cost nothing beside it. Weights reported: the clients' parts
    of the result, without the old centre's, brought to sum 1.

    Args:
        tau: length from the centre at which updates are clipped; null: in each step the median
            distance to the centre, so that half are clipped (our choice; fewer than half the
            clients cannot push it beyond the others').
        iterations: averaging steps in a round; the paper needs 1.

    Returns:
        The rule. It remembers the centre, a vector of the model's size.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Karimireddy, He, Jaggi, ICML 2021.
    """

    def rule(round: Round) -> Aggregate:
        updates, centre_D = round.updates, round.memory.get("centre")
        inner_MM = _with_centre(updates, centre_D)
        weights_M, clipped_N = clip_steps(inner_MM, tau, iterations)
        update_D = updates.combine(weights_M[:-1])
        if centre_D is not None:
            update_D.add_(centre_D.to(update_D), alpha=float(weights_M[-1]))
        memory = {"centre": update_D.to("cpu", copy=True)}
        return make_aggregate(
            round,
            update_D,
            weights_M[:-1],
            extras={"kept_distance": clipped_N.tolist()},
            memory=memory,
        )

    return Strategy("centered_clipping", rule)


def _with_centre(updates: Updates, centre_D: Tensor | None) -> Tensor:
    """(N + 1, N + 1) float64 inner products of the updates and, last, of the centre (None: the
    origin)."""
    n = len(updates)
    inner_MM = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    inner_MM[:n, :n] = updates.gram().cpu()
    if centre_D is None:
        return inner_MM
    inner_MM[-1, :n] = inner_MM[:n, -1] = inner_products(updates, centre_D)
    inner_MM[-1, -1] = sum(
        strip.double().square().sum() for _, strip in column_strips(centre_D[None])
    )
    return inner_MM


def clip_steps(inner_MM: Tensor, tau: float | None, iterations: int) -> tuple[Tensor, Tensor]:
    """((N + 1,) weights of the updates and of the old centre in the new one, (N,) factors of the
    last step), from the inner products."""
    n = len(inner_MM) - 1
    weights_M = torch.zeros(n + 1, dtype=torch.float64)
    weights_M[-1] = 1
    factors_N = torch.ones(n, dtype=torch.float64)
    for _ in range(iterations):
        distances_N = squared_to(inner_MM, weights_M)[:-1].sqrt()
        bound = float(distances_N.quantile(0.5)) if tau is None else tau
        factors_N = torch.where(
            distances_N > bound, bound / distances_N, torch.ones_like(distances_N)
        )
        weights_M = weights_M * (1 - factors_N.mean())
        weights_M[:-1] += factors_N / n
    return weights_M, factors_N
