"""LASA: in every layer the mean of the sparse updates whose length and signs are like the
others'."""

from __future__ import annotations

from typing import Annotated

import torch
from fedrobust.strategies.alignins import mz_scores
from pydantic import Field
from torch import Tensor

from fedrobust.aggregation.layers import (
    largest_bounds,
    layer_slices,
    layer_strips,
    weight_layers,
)
from fedrobust.aggregation.norms import norms, to_median
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import Updates, normalize
from fedrobust.utils.validation import Positive, check_settings

Sparsity = Annotated[float, Field(ge=0, lt=1)]


@check_settings("strategy")
def lasa(
    sparsity: Sparsity = 0.3, length_radius: Positive = 1.0, sign_radius: Positive = 1.0
) -> Strategy:
    """Layer-adaptive sparsified aggregation: a layer of the model moves by the mean of that layer
    in the updates that pass two tests there.

    1. Every update is shortened to the median length, and the smallest values of its weights
       (without biases and normalisations) become 0.
    2. In each layer an update passes where the MZ-scores (see `alignins`) of its length and of
       the balance of its signs, (positive - negative) / (positive + negative), are below the radii.
       Where no client passes both, all do.

    Tolerates f < N/2. Zeroed values stay zero in the mean: even equal updates do not arrive whole.
    So does the authors' code. Where the balances of a layer do not differ, all pass that test
    (their code then divides 0 by 0 and takes all). Cost: each row once for its largest values, then
    three passes. Weights reported: a client's shares in the layers' means, weighted by the layers'
    sizes; `accepted_layers` is the share of layers in which it passed.

    Args:
        sparsity: share of the weights' values, the smallest, that become 0.
        length_radius: lambda_n, largest MZ-score of a layer's length.
        sign_radius: lambda_s, largest MZ-score of a layer's balance of signs.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Xu, Zhang, Hu, WACV 2025 (arXiv 2409.01435). Agrees with the authors' code to 1e-6 on random
        updates of odd numbers of clients, but for two things: of k values to be kept their code
        keeps k - 1, and the layers named above.

    Needs:
        an honest majority
    """

    def rule(round: Round) -> Aggregate:
        updates = round.updates
        factors_N = to_median(norms(updates))
        bounds_LN = _bounds(updates, sparsity)
        lengths_LN, balances_LN = layer_statistics(updates, bounds_LN)
        passed_LN = mz_scores(lengths_LN * factors_N) < length_radius
        passed_LN &= mz_scores(balances_LN) < sign_radius
        accepted_LN = passed_LN | ~passed_LN.any(dim=1, keepdim=True)
        shares_LN = accepted_LN / accepted_LN.sum(dim=1, keepdim=True)
        sizes_L = torch.tensor([part.stop - part.start for part in layer_slices(updates)])
        weights_N = normalize(sizes_L.double() @ shares_LN.double())
        update_D = _combine(updates, shares_LN * factors_N, bounds_LN)
        extras = {"accepted_layers": accepted_LN.double().mean(dim=0).tolist()}
        return make_aggregate(round, update_D, weights_N, extras=extras)

    return Strategy("lasa", rule)


def _bounds(updates: Updates, sparsity: float) -> Tensor:
    """(L, N) the least magnitude that is kept in each layer of each update; 0: all."""
    sparse = weight_layers(updates)
    columns = [part for part, one in zip(layer_slices(updates), sparse, strict=True) if one]
    if sparsity == 0 or not columns:
        return updates.matrix_ND.new_zeros((len(sparse), len(updates)))
    everything = columns if len(columns) < len(sparse) else None
    bounds_N = largest_bounds(updates, 1 - sparsity, everything)
    return torch.tensor(sparse, device=bounds_N.device)[:, None] * bounds_N


def layer_statistics(updates: Updates, bounds_LN: Tensor) -> tuple[Tensor, Tensor]:
    """(L, N) float64 lengths and balances of signs, in [-1, 1], of the layers of each update,
    without values below the bounds."""
    layers, count = bounds_LN.shape
    sums_3LN = updates.matrix_ND.new_zeros((3, layers, count), dtype=torch.float64)
    for layer, _, strip_Nb in layer_strips(updates):
        sparse_Nb = _sparse(strip_Nb, bounds_LN[layer])
        signs_Nb = sparse_Nb.sign()
        sums_3LN[0, layer] += sparse_Nb.to(torch.float64).square_().sum(dim=1)
        sums_3LN[1, layer] += signs_Nb.sum(dim=1)
        sums_3LN[2, layer] += signs_Nb.abs_().sum(dim=1)
    squares_LN, signs_LN, counts_LN = sums_3LN.cpu()
    return squares_LN.sqrt(), signs_LN / counts_LN.clamp(min=1)


def _sparse(strip_Nb: Tensor, bounds_N: Tensor) -> Tensor:
    return strip_Nb * (strip_Nb.abs() >= bounds_N[:, None])


def _combine(updates: Updates, weights_LN: Tensor, bounds_LN: Tensor) -> Tensor:
    """The (D,) weighted sums of the sparse updates, with each layer's own weights."""
    out_D = updates.matrix_ND.new_empty(updates.matrix_ND.shape[1])
    weights_LN = weights_LN.to(out_D)
    for layer, columns, strip_Nb in layer_strips(updates):
        out_D[columns] = weights_LN[layer] @ _sparse(strip_Nb, bounds_LN[layer])
    return out_D
