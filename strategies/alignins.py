"""AlignIns: updates whose directions or signs are unlike the others' are left out."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.aggregation.layers import largest_bounds
from fedrobust.aggregation.norms import inner_products, norms
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import Updates, column_strips, normalize
from fedrobust.utils.validation import Positive, PositiveShare, check_settings

EQUAL = 1e-9  # values that spread less, as a share of the largest, do not differ


@check_settings("strategy")
def alignins(
    direction_radius: Positive = 1.0,
    sign_radius: Positive = 1.0,
    top_share: PositiveShare = 0.3,
) -> Strategy:
    """Direction alignment inspection: the mean, by numbers of images, of the updates that pass two
    tests, shortened to their median length.

    1. TDA, the cosine of the update and the global model.
    2. MPSA, among the update's largest values the share with the principal sign of their
       coordinate, sgn(sum_n sgn(x_n)).

    An update passes a test where its MZ-score |v_n - median| / standard deviation is below the
    radius. Tolerates f < N/2. It measures spread by the standard deviation of all clients, so that
    at radius 1 some are left out without any attack. Where the values of a test do not differ, all
    pass it (the authors' code divides 0 by 0 and lets none pass); where no client passes both, the
    global model stays. Cost: each row once for its largest values, then three passes. Weights
    reported: shares of images of those that pass.

    Args:
        direction_radius: lambda_c, largest MZ-score of the TDA.
        sign_radius: lambda_s, largest MZ-score of the MPSA.
        top_share: share of the values, the largest, whose signs are looked at.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Xu, Zhang, Hu, CVPR 2025. Agrees with the authors' code to 1e-6 on random
        updates, where an odd number passes (of an even number it takes the lower of the two middle
        lengths, this rule their mean).

    Needs:
        an honest majority; at least 3 clients a round (of two, each is one deviation from their
        median, and at radius 1 neither passes)
    """

    def rule(round: Round) -> Aggregate:
        updates = round.updates
        lengths_N = norms(updates)
        tda_N = model_cosines(round, lengths_N)
        mpsa_N = principal_sign_shares(updates, top_share)
        passed_N = (mz_scores(tda_N) < direction_radius) & (mz_scores(mpsa_N) < sign_radius)
        weights_N = normalize(updates.num_examples_N * passed_N)
        bound = float(lengths_N[passed_N].quantile(0.5)) if passed_N.any() else 0.0
        factors_N = torch.where(lengths_N > bound, bound / lengths_N, 1.0)
        extras = {"tda": tda_N.tolist(), "mpsa": mpsa_N.tolist(), "clipping_bound": bound}
        update_D = updates.combine(weights_N * factors_N)
        return make_aggregate(round, update_D, weights_N, extras=extras)

    return Strategy("alignins", rule, min_clients=3, limited_by="")


def model_cosines(round: Round, lengths_N: Tensor) -> Tensor:
    """(N,) float64 cosines of the updates, which have these lengths, and the global model; 0 where
    either is zero."""
    reference_D = round.reference.parameters
    length = float(reference_D.to(torch.float64).norm())
    products_N = inner_products(round.updates, reference_D)
    return (products_N / (length * lengths_N)).nan_to_num(0.0, 0.0, 0.0)


def principal_sign_shares(updates: Updates, top_share: float) -> Tensor:
    """(N,) float64 shares of each row's largest values that have the sign of most rows in their
    column."""
    bounds_N1 = largest_bounds(updates, top_share)[:, None]
    counts_2N = updates.matrix_ND.new_zeros((2, len(updates)), dtype=torch.float64)
    for _, block_Nb in updates.blocks():
        for _, strip_Nb in column_strips(block_Nb):
            signs_Nb = strip_Nb.sign()
            large_Nb = strip_Nb.abs() >= bounds_N1
            agreed_Nb = large_Nb & (signs_Nb == signs_Nb.sum(dim=0).sign())
            counts_2N += torch.stack([agreed_Nb.sum(dim=1), large_Nb.sum(dim=1)])
    shares_N: Tensor = (counts_2N[0] / counts_2N[1]).cpu()
    return shares_N


def mz_scores(values_N: Tensor) -> Tensor:
    """Scores (..., N) |v - median| / standard deviation along the last axis, with nine decimals (of
    two values both are exactly 1); 0 where the values do not differ."""
    wide_N = values_N.to(torch.float64)
    spread_1 = wide_N.std(dim=-1, correction=0, keepdim=True)
    apart_N = (wide_N - wide_N.quantile(0.5, dim=-1, keepdim=True)).abs()
    equal_1 = spread_1 <= EQUAL * wide_N.abs().amax(dim=-1, keepdim=True)
    scores_N: Tensor = torch.where(equal_1, 0.0, apart_N / spread_1).round(decimals=9)
    return scores_N
