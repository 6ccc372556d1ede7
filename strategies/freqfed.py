"""FreqFed: keep the majority of models whose low frequencies are alike."""

from __future__ import annotations

import torch
from fedrobust.strategies.dnc import distinct
from fedrobust.strategies.flame import cosine_distances, majority
from torch import Tensor

from fedrobust.aggregation.gram import accumulate
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import STRIP, column_strips, normalize
from fedrobust.utils.validation import PositiveCount, PositiveShare, check_settings


@check_settings("strategy")
def freqfed(low_share: PositiveShare = 0.5, coefficients: PositiveCount = 200_000) -> Strategy:
    """The mean, by numbers of images, of the majority of the models whose low frequencies are
    alike.

    1. The discrete cosine transform (type II) of each client's model, all parameters as one vector;
       its first coefficients are the low frequencies.
    2. HDBSCAN on their cosine distances, with clusters of at least floor(N/2) + 1 models and
       min_samples = 1, as in `flame`: the largest cluster, if it holds a majority. These settings
       and the one vector (instead of one transform a layer) are our choice.

    Tolerates f < N/2. Of a large model only a random sample of the low frequencies is compared,
    which estimates the same cosines: N x coefficients float32 values are in memory, 8 MB for ten
    clients. Cost: one transform a client (D log D, a second for 11 million parameters), then a Gram
    matrix of the sample. The order of the parameters decides what a low frequency is. An accepted
    update keeps its length: nothing is shortened and no noise is added.

    Args:
        low_share: share of the coefficients, from the lowest frequency on, that are compared.
        coefficients: at most so many of them, drawn anew every round.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Fereidooni, Pegoraro, Rieger, Dmitrienko, Sadeghi, NDSS 2024 (arXiv 2312.04432).

    Needs:
        an honest majority
    """

    def rule(round: Round) -> Aggregate:
        low_NF = low_frequencies(round, low_share, coefficients)
        strips = (strip_Nb for _, strip_Nb in column_strips(low_NF, STRIP // 2))
        inner_NN = accumulate(strips, torch.zeros(len(low_NF), len(low_NF), dtype=torch.float64))
        admitted_N = majority(cosine_distances(inner_NN))
        weights_N = normalize(round.updates.num_examples_N.cpu() * admitted_N)
        return make_aggregate(round, round.updates.combine(weights_N), weights_N)

    return Strategy("freqfed", rule)


def low_frequencies(round: Round, low_share: float, most: int) -> Tensor:
    """(N, F) float32 low coefficients of the clients' models, at most `most`, on the CPU: the same
    ones of each, the lowest first."""
    from scipy.fft import dct

    reference_D = round.reference.parameters.to("cpu", torch.float64)
    low = max(1, int(low_share * len(reference_D) + 0.5))
    chosen = torch.arange(low) if low <= most else distinct(low, most, round.generator)
    found = torch.empty(len(round.updates), len(chosen))
    for n in range(len(round.updates)):
        model_D = reference_D + round.updates.row(n).to(reference_D)
        found[n] = torch.from_numpy(dct(model_D.numpy(), norm="ortho", overwrite_x=True))[chosen]
    return found
