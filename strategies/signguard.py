"""SignGuard: flags updates by their norms and sign statistics."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from fedrobust.aggregation.norms import norms
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import Updates
from fedrobust.utils.validation import PositiveShare, Share, check_settings

LEAST_WIDTH = 1e-3  # of the clusters' kernel: shares of signs that differ by less are the same


@check_settings("strategy")
def signguard(
    shortest: Share = 0.1,
    longest: Annotated[float, Field(ge=1)] = 3.0,
    coordinates: PositiveShare = 0.1,
) -> Strategy:
    """The mean of x_n min(1, M / |x_n|) over the clients that two filters agree on, with M the
    median length.

    1. `shortest` <= |x_n| / M <= `longest` (the paper's L and R);
    2. n lies in the largest cluster that mean shift finds among the shares of positive, zero and
       negative values of each update, on a random share `coordinates` of all columns. The width of
       its kernel is scikit-learn's estimate at the quantile 0.5.

    Tolerates f < N/2. This is the plain variant, without the similarity features of -Sim and -Dist.
    Weights reported: equal shares of those kept. Where the filters have no client in common the
    global model stays.

    Args:
        shortest: updates shorter than so many median lengths are left out.
        longest: updates longer than so many median lengths are left out.
        coordinates: share of the parameters whose signs are looked at, drawn anew every round.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Xu, Huang, Song, Lan, ICDCS 2022.

    Needs:
        an honest majority
    """

    def rule(round: Round) -> Aggregate:
        lengths_N = norms(round.updates)
        bound = float(lengths_N.quantile(0.5))
        fitting_N = (lengths_N >= shortest * bound) & (lengths_N <= longest * bound)
        shares_NS = sign_shares(round.updates, coordinates, round.generator)
        kept_N = (fitting_N & largest_cluster(shares_NS)).to(torch.float64)
        weights_N = kept_N / kept_N.sum().clamp(min=1)
        factors_N = torch.where(lengths_N > bound, bound / lengths_N, 1.0)
        extras = {"positive_share": shares_NS[:, 0].tolist(), "clipping_bound": bound}
        return make_aggregate(
            round, round.updates.combine(weights_N * factors_N), weights_N, extras=extras
        )

    return Strategy("signguard", rule)


def sign_shares(updates: Updates, coordinates: float, generator: Generator) -> Tensor:
    """(N, 3) float64 shares of positive, zero and negative values among random columns, drawn with
    replacement."""
    columns = updates.matrix_ND.shape[1]
    drawn = (
        torch.randint(columns, (max(1, round(coordinates * columns)),), generator=generator)
        .sort()
        .values
    )
    counts_N3 = torch.zeros(len(updates), 3, dtype=torch.float64)
    for part, block_Nb in updates.blocks():
        first, last = torch.searchsorted(drawn, torch.tensor([part.start, part.stop])).tolist()
        values_Nb = block_Nb[:, (drawn[first:last] - part.start).to(block_Nb.device)]
        signs = [
            (values_Nb > 0).sum(dim=1),
            (values_Nb == 0).sum(dim=1),
            (values_Nb < 0).sum(dim=1),
        ]
        counts_N3 += torch.stack(signs, dim=1).cpu()
    return counts_N3 / len(drawn)


def largest_cluster(features_NF: Tensor) -> Tensor:
    """(N,) bool: whether a row lies in mean shift's largest cluster (the first of equals)."""
    from sklearn.cluster import MeanShift, estimate_bandwidth  # imports half of scipy

    features = features_NF.numpy()
    width = max(float(estimate_bandwidth(features, quantile=0.5)), LEAST_WIDTH)
    labels = torch.from_numpy(MeanShift(bandwidth=width).fit(features).labels_)
    return labels == labels.bincount().argmax()
