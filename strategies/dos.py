"""DOS: clients whose distances to the others are unusual lose their weight."""

from __future__ import annotations

import torch
from fedrobust.strategies.flame import model_distances
from torch import Tensor

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import squared_distances
from fedrobust.utils.validation import Positive, check_settings

SAME = 1e-12  # squared distances that are a smaller share of the squared lengths are rounding


@check_settings("strategy")
def dos(sharpness: Positive = 1.0) -> Strategy:
    """Distance-based outlier suppression: the mean of the updates with weights softmax(-(r_E +
    r_C)), where r_E and r_C are COPOD's outlier scores of the rows of two (N, N) matrices: the
    Euclidean and the cosine distances between the clients' models.

    It asks for no number of attackers and drops no client, but they must be fewer than half: the
    scores are ranks among all clients. Weights fall exponentially, so that few clients carry most
    of them. Cost: one Gram matrix, then N^2 log N. `outlier_score` records r_E + r_C.

    Args:
        sharpness: factor of the scores in the softmax. 1 adds both, as the authors' code does; 0.5
            takes their mean.

    Returns:
        The rule.

    Raises:
        ConfigError: the sharpness is out of its range.

    Reference:
        Alkhunaizi, Kamzolov, Takac, Nandakumar, MICCAI 2022; COPOD: Li, Zhao, Botta, Ionescu, Hu,
        ICDM 2020. The weights agree with the authors' code (`abnormalCompute`, with COPOD of pyod
        3.6.7) to 1e-9 on random models of 5 to 12 clients; where a column has no skewness but
        rounding, pyod takes the sign of that.

    Needs:
        an honest majority
    """

    def rule(round: Round) -> Aggregate:
        gram_NN = round.updates.gram().cpu()
        scores_N = copod(euclidean(gram_NN)) + copod(_steady(model_distances(round, gram_NN)))
        weights_N = torch.softmax(-sharpness * scores_N, dim=0)
        update_D = round.updates.combine(weights_N)
        return make_aggregate(
            round, update_D, weights_N, extras={"outlier_score": scores_N.tolist()}
        )

    return Strategy("dos", rule)


def euclidean(gram_NN: Tensor) -> Tensor:
    """(N, N) float64 distances of rows from their inner products; equal rows are at 0."""
    squares_N = gram_NN.diagonal()
    squared_NN = squared_distances(gram_NN)
    near_NN = squared_NN <= SAME * (squares_N[:, None] + squares_N[None, :])
    return _steady(squared_NN.masked_fill(near_NN, 0).sqrt())


def _steady(distances_NN: Tensor) -> Tensor:
    """Seven digits of each distance, and 0 below 1e-12: COPOD sees ranks alone, in which the last
    bits would tell equal distances apart."""
    return distances_NN.masked_fill(distances_NN < SAME, 0).float().double()


def copod(features_NF: Tensor) -> Tensor:
    """(N,) float64 outlier scores, 0 at least, of the rows by COPOD: empirical tail probabilities
    in every column.

    With l and r the shares of the rows whose value is at most, and at least, the row's own, a
    column adds max(s, -(ln l + ln r)/2) to its score; s is -ln l in a column with negative
    skewness, -ln r in one with positive, and their sum where it has none.
    """
    count, columns_FN = len(features_NF), features_NF.to(torch.float64).T.contiguous()
    sorted_FN = columns_FN.sort(dim=1).values
    below_FN = torch.searchsorted(sorted_FN, columns_FN, right=True)
    above_FN = count - torch.searchsorted(sorted_FN, columns_FN)
    left_FN, right_FN = (-(tail.double() / count).log() for tail in (below_FN, above_FN))
    skew_F1 = _skew_sign(columns_FN)[:, None]
    skewed_FN = left_FN * (skew_F1 <= 0) + right_FN * (skew_F1 >= 0)
    scores_N: Tensor = torch.maximum(skewed_FN, (left_FN + right_FN) / 2).sum(dim=0)
    return scores_N


def _skew_sign(columns_FN: Tensor) -> Tensor:
    """(F,) signs of the columns' third central moments; 0 within rounding."""
    centred_FN = columns_FN - columns_FN.mean(dim=1, keepdim=True)
    third_F = centred_FN.pow(3).mean(dim=1)
    rounding_F = 1e-9 * centred_FN.square().mean(dim=1).pow(1.5)
    return third_F.sign() * (third_F.abs() > rounding_F)
