"""FLAME: keep the majority of models that point one way, shorten their updates, add noise."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.aggregation.norms import inner_products
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.utils.validation import NonNegative, check_settings


@check_settings("strategy")
def flame(noise: NonNegative = 0.0) -> Strategy:
    """The majority of the models that point one way are averaged, their updates shortened.

    1. HDBSCAN (scikit-learn's) on the cosine distances of the clients' models, with clusters of at
       least floor(N/2) + 1 of them and min_samples = 1: the one cluster there can be is admitted,
       the rest left out.
    2. With S the median length of all updates: the mean of the admitted updates times min(1, S /
       |x_n|).
    3. Gaussian noise of standard deviation lambda S on every parameter.

    Tolerates f < N/2. Weights reported: equal shares of the admitted.

    Args:
        noise: lambda, in median lengths of the updates. The paper takes 0.001; it is off by
            default, as it harms the model with or without an attack.

    Returns:
        The rule.

    Raises:
        ConfigError: the noise is out of its range.

    Reference:
        Nguyen et al., USENIX Security 2022, algorithm 1.

    Needs:
        an honest majority
    """

    def rule(round: Round) -> Aggregate:
        gram_NN = round.updates.gram().cpu()
        lengths_N = gram_NN.diagonal().sqrt()
        admitted_N = majority(model_distances(round, gram_NN))
        bound = float(lengths_N.quantile(0.5))
        weights_N = admitted_N / admitted_N.sum()
        factors_N = torch.where(lengths_N > bound, bound / lengths_N, 1.0)
        update_D = round.updates.combine(weights_N * factors_N)
        if noise:
            update_D = update_D + noise * bound * torch.randn(
                len(update_D), generator=round.generator
            ).to(update_D)
        return make_aggregate(round, update_D, weights_N, extras={"clipping_bound": bound})

    return Strategy("flame", rule)


def model_distances(round: Round, gram_NN: Tensor) -> Tensor:
    """(N, N) cosine distances in [0, 2] of the models reference + update, from inner products
    alone."""
    reference_D = round.reference.parameters
    products_N = inner_products(round.updates, reference_D)
    inner_NN = (
        gram_NN
        + products_N[:, None]
        + products_N[None, :]
        + reference_D.to(torch.float64).square().sum().cpu()
    )
    return cosine_distances(inner_NN)


def cosine_distances(inner_NN: Tensor) -> Tensor:
    """(N, N) cosine distances in [0, 2] from inner products; to a vector of zeros it is 1."""
    lengths_N = inner_NN.diagonal().clamp(min=0).sqrt()
    cosines_NN = (inner_NN / (lengths_N[:, None] * lengths_N[None, :])).nan_to_num(0.0)
    return (1 - cosines_NN).clamp_(0, 2).fill_diagonal_(0)


def majority(distances_NN: Tensor) -> Tensor:
    """(N,) 1.0 for the members of HDBSCAN's only cluster, which holds more than half, else 0.0."""
    from sklearn.cluster import HDBSCAN  # imports half of scipy

    count = len(distances_NN)
    if count == 1:
        return torch.ones(1, dtype=torch.float64)
    settings = {"min_cluster_size": count // 2 + 1, "min_samples": 1, "allow_single_cluster": True}
    labels = HDBSCAN(metric="precomputed", copy=True, **settings).fit(distances_NN.numpy()).labels_
    return torch.from_numpy(labels >= 0).to(torch.float64)
