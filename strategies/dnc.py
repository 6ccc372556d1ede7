"""DnC (divide and conquer): updates that stand out in the main direction of some random coordinates
are left out."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from fedrobust.aggregation.gram import center_gram
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import Updates
from fedrobust.errors import RunError
from fedrobust.utils.validation import Count, Positive, PositiveCount, check_settings


@check_settings("strategy")
def dnc(
    f: Count = 3,
    iterations: PositiveCount = 1,
    coordinates: PositiveCount = 10_000,
    factor: Positive = 1.0,
) -> Strategy:
    """Divide and conquer: the mean of the updates that are good in each of some trials.

    A trial takes random coordinates (all, where there are fewer), the top right singular vector v
    of the centred updates there, scores s_n = ((x_n - mu)'v)^2, and calls all but the int(factor x
    f) highest scores good. The rule raises RunError where no client was good in all trials: with
    fewer trials there are always some.

    Args:
        f: attackers to tolerate, among more than 2f clients.
        iterations: trials (the paper's niters).
        coordinates: random coordinates that a trial looks at (the paper's b).
        factor: a trial leaves out the int(factor x f) most outlying clients (the paper's c); more
            clients than that are needed.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Shejwalkar, Houmansadr, NDSS 2021.

    Needs:
        at least 2f + 1 clients a round
    """
    out = math.floor(factor * f + 1e-9)

    def rule(round: Round) -> Aggregate:
        sampled_TNb = _sampled(round.updates, iterations, coordinates, round.generator)
        scores_TN = torch.stack([outlier_scores(wide_Nb @ wide_Nb.T) for wide_Nb in sampled_TNb])
        good_TN = scores_TN.argsort(dim=1, stable=True).argsort(dim=1) < len(round.updates) - out
        good_N = good_TN.all(dim=0).double()
        if not good_N.any():
            raise RunError(
                f"round {round.number}: strategy.iterations={iterations}: no client "
                "was good in all of them; use fewer"
            )
        weights_N = good_N / good_N.sum()
        return make_aggregate(
            round,
            round.updates.combine(weights_N),
            weights_N,
            extras={"dnc_score": scores_TN.mean(dim=0).tolist()},
        )

    return Strategy("dnc", rule, min_clients=max(2 * f, out) + 1)


def outlier_scores(gram_NN: Tensor) -> Tensor:
    """(N,) squared projections of the centred rows on their top right singular vector: lambda u_n^2
    with the top eigenpair of their Gram matrix."""
    n = len(gram_NN)
    values_N, vectors_NN = torch.linalg.eigh(center_gram(gram_NN, gram_NN.new_full((n,), 1 / n)))
    scores_N: Tensor = values_N[-1].clamp(min=0) * vectors_NN[:, -1].square()
    return scores_N


def _sampled(updates: Updates, trials: int, coordinates: int, generator: Generator) -> list[Tensor]:
    """One (N, b) float64 matrix a trial, on the CPU: random columns of the updates, in one pass."""
    columns = updates.matrix_ND.shape[1]
    chosen = [distinct(columns, min(coordinates, columns), generator) for _ in range(trials)]
    found: list[list[Tensor]] = [[] for _ in chosen]
    for part, block_Nb in updates.blocks():
        for index, pieces in zip(chosen, found, strict=True):
            first, last = torch.searchsorted(index, torch.tensor([part.start, part.stop])).tolist()
            pieces.append(block_Nb[:, (index[first:last] - part.start).to(block_Nb.device)].cpu())
    return [torch.cat(pieces, dim=1).double() for pieces in found]


def distinct(total: int, wanted: int, generator: Generator) -> Tensor:
    """`wanted` of the numbers 0 ... total - 1, ascending, every set as likely as any other. Time
    and memory are those of `wanted`."""
    if 4 * wanted >= total:
        return torch.randperm(total, generator=generator)[:wanted].sort().values
    found = torch.empty(0, dtype=torch.int64)
    while len(found) < wanted:
        found = torch.tensor(
            sorted(
                {*found.tolist(), *torch.randint(total, (wanted,), generator=generator).tolist()}
            )
        )
    return found[torch.randperm(len(found), generator=generator)[:wanted]].sort().values
