"""Evidence against each client: its update repeats another one, is far too long, points away from
the others, or its model departs from the others against the labels.

Pure functions on Gram and score matrices; no model here. N clients (their models are the members),
P images, K classes. Of label errors a single round shows little: what counts are means over the
rounds in which a client took part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

COPIED_AT: Final = 0.9  # cosine with the most similar other update, after the mean is taken off
TOO_LONG: Final = 3.0  # median lengths
SUSPECT_AT: Final = 1.0  # standard deviations below the median client, mean of both comparisons
FIRST: Final = 1e6  # more than any distance below the median: copies and long updates come first
LEAST_COMPARED: Final = 4  # clients: of fewer none stands out
SPREAD_FLOOR: Final = 0.01  # a spread below it is taken for noise
ROUNDING: Final = 1e-12  # of a squared length: less than that apart from the mean is the mean
NORMAL: Final = 1.4826  # a normal distribution's standard deviation in median absolute deviations


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one round, or means over rounds; each (N,) float64.

    Attributes:
        copies_N: cosine with the most similar other update after the mean is taken off.
        length_N: length in median lengths.
        direction_N: median cosine with the updates that nobody repeats.
        agreement_N: correlation of what distinguishes a member's scores with the classes that the
            images have, or that the members agree on.
    """

    copies_N: Tensor
    length_N: Tensor
    direction_N: Tensor
    agreement_N: Tensor


@dataclass(frozen=True, slots=True)
class Suspects:
    """means over rounds; named_N: (N,) bool, whom they are against; remembered: by client the
    number of rounds and the sums of its evidence."""

    means: Evidence
    named_N: Tensor
    remembered: Mapping[int, tuple[float, ...]]


def find_evidence(gram_NN: Tensor, scores_NPK: Tensor, labels_P: Tensor | None) -> Evidence:
    """The evidence of one round.

    Args:
        gram_NN: inner products of the updates, as they were sent.
        scores_NPK: the members' scores of images; those of the proxy set, or of the root set.
        labels_P: classes of these images, in [0, K); None: those that the members agree on.

    Returns:
        The evidence. An update or scores that are not finite have the length inf and otherwise
        zeros where they cannot be compared. The median length is that of updates that are not zero.
    """
    gram_NN = gram_NN.to("cpu", torch.float64)
    squares_N = gram_NN.diagonal()
    usable_N = squares_N.isfinite()
    answers_N = scores_NPK.isfinite().flatten(1).all(dim=1).cpu()
    lengths_N = squares_N.clamp(min=0).sqrt()
    moved_N = usable_N & (squares_N > 0)
    median = lengths_N[moved_N].quantile(0.5) if moved_N.any() else torch.tensor(1.0)
    copies_N = closest_cosines(gram_NN)
    alone_N = usable_N & (copies_N <= COPIED_AT)
    return Evidence(
        copies_N,
        torch.where(usable_N & answers_N, lengths_N / median, torch.inf),
        direction(gram_NN, alone_N),
        label_agreement(scores_NPK, labels_P),
    )


def centered_cosines(gram_NN: Tensor) -> Tensor:
    """(N, N) float64 cosines between the updates after their mean is taken off, from their inner
    products; 0 where one of them is the mean.

    For the mean, an update longer than the median one counts as that long and one whose products
    are not finite as none: huge updates must neither hide others' copies nor make the honest look
    alike.
    """
    n = len(gram_NN)
    gram_NN = gram_NN.to("cpu", torch.float64)
    squares_N = gram_NN.diagonal()
    usable_N = squares_N.isfinite()
    bound = squares_N[usable_N].sqrt().quantile(0.5) if usable_N.any() else 0.0
    factors_N = torch.where(
        usable_N & (squares_N > bound**2), bound / squares_N.sqrt(), usable_N.to(torch.float64)
    )
    gram_NN = (
        torch.where(usable_N[:, None] & usable_N, gram_NN, 0.0) * factors_N[:, None] * factors_N
    )
    off_NN = torch.eye(n, dtype=torch.float64) - 1 / n
    inner_NN = off_NN @ gram_NN @ off_NN
    near_N = inner_NN.diagonal() <= ROUNDING * gram_NN.diagonal()
    return _cosines(inner_NN.masked_fill(near_N[:, None] | near_N, 0.0))


def closest_cosines(gram_NN: Tensor) -> Tensor:
    """(N,) float64 cosine of each update with the most similar other one after the mean is taken
    off; 0 of a single client, and where more than half of the clients are similar enough to count
    as copies: that is the honest majority, which reversed updates have moved the mean from."""
    n = len(gram_NN)
    if n < 2:
        return torch.zeros(n, dtype=torch.float64)
    cosines_NN = centered_cosines(gram_NN).fill_diagonal_(-1.0)
    alike_N = (cosines_NN > COPIED_AT).sum(dim=1) + 1
    return torch.where(2 * alike_N > n, 0.0, cosines_NN.amax(dim=1))


def direction(gram_NN: Tensor, compared_N: Tensor) -> Tensor:
    """(N,) float64 median cosine of each update with the other ones of `compared_N` (N,) bool; 0
    without any."""
    usable_N = gram_NN.diagonal().isfinite()
    cosines_NN = _cosines(torch.where(usable_N[:, None] & usable_N, gram_NN, 0.0))
    n = len(gram_NN)
    others_NN = compared_N & ~torch.eye(n, dtype=torch.bool)
    medians = torch.where(others_NN, cosines_NN, torch.nan).nanquantile(0.5, dim=1)
    return medians.nan_to_num(0.0)


def _cosines(gram_NN: Tensor) -> Tensor:
    lengths_N = gram_NN.diagonal().clamp(min=0).sqrt()
    cosines_NN: Tensor = gram_NN / (lengths_N[:, None] * lengths_N)
    return cosines_NN.nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1)


def label_agreement(scores_NPK: Tensor, labels_P: Tensor | None = None) -> Tensor:
    """(N,) float64 in [-1, 1]: how far what distinguishes a member from the others points to the
    classes of the images.

    The deviation of a member's scores from the median member's is centred over the images of every
    class and over the classes of every image, so that neither frequent classes nor the length of
    the scores count, and correlated with the one-hot labels, centred likewise. Without labels an
    image has the class whose score, centred over the images, the median member has largest. An
    honest hospital that lacks classes knows the others better than most; one whose labels are
    wrong pulls images to other classes.

    A member whose scores are not finite, one that is the median, and images that all have the same
    class give 0.
    """
    scores_NPK = scores_NPK.to("cpu", torch.float64)
    usable_N = scores_NPK.isfinite().flatten(1).all(dim=1)
    if not usable_N.any() or not scores_NPK.shape[1]:
        return torch.zeros(len(usable_N), dtype=torch.float64)
    scores_NPK = torch.where(usable_N[:, None, None], scores_NPK, 0.0)
    if labels_P is None:
        balanced_NPK = scores_NPK - scores_NPK.mean(dim=1, keepdim=True)
        labels_P = balanced_NPK[usable_N].quantile(0.5, dim=0).argmax(dim=1)
    classes = scores_NPK.shape[2]
    target_PK = _center(torch.eye(classes, dtype=torch.float64)[labels_P.cpu()])
    median_PK = scores_NPK[usable_N].quantile(0.5, dim=0)
    change_NPK = _center(scores_NPK - median_PK)
    inner_N = (change_NPK * target_PK).sum(dim=(1, 2))
    lengths_N = change_NPK.square().sum(dim=(1, 2)).sqrt() * target_PK.square().sum().sqrt()
    found_N: Tensor = (inner_N / lengths_N).nan_to_num(0.0, 0.0, 0.0) * usable_N
    return found_N


def _center(values: Tensor) -> Tensor:
    """(..., P, K) without the means over P and over K."""
    values = values - values.mean(dim=-2, keepdim=True)
    return values - values.mean(dim=-1, keepdim=True)


def merge_evidence(
    now: Evidence, clients: tuple[int, ...], past: Mapping[int, tuple[float, ...]]
) -> tuple[Evidence, dict[int, tuple[float, ...]]]:
    """Means over all rounds in which a client took part, and what is to be remembered: by client
    the number of rounds and the sums. Lengths count as at most 10 median ones, so that one broken
    round can be forgotten."""
    now_N4 = torch.stack(
        [now.copies_N, now.length_N.clamp(max=10.0), now.direction_N, now.agreement_N], dim=1
    )
    before_N5 = torch.tensor(
        [past.get(client, (0.0,) * 5) for client in clients], dtype=torch.float64
    ).reshape(-1, 5)
    rounds_N1, sums_N4 = before_N5[:, :1] + 1, before_N5[:, 1:] + now_N4
    means = Evidence(*(sums_N4 / rounds_N1).unbind(dim=1))
    sums = torch.cat([rounds_N1, sums_N4], dim=1).tolist()
    return means, {**past, **dict(zip(clients, map(tuple, sums), strict=True))}


def find_suspects(means: Evidence) -> Tensor:
    """(N,) bool: whose updates repeat another one's or are too long, and who is more than
    SUSPECT_AT below the median client, on the mean of direction and agreement, each in standard
    deviations of those above the median.

    The others' evidence is compared without the updates that are copies or too long, where at least
    LEAST_COMPARED remain. At most half of the clients (rounded down) are named: copies and long
    updates first, then those farthest below. An attacker that copies an honest update gets that
    hospital named, too: which of two equal ones is the original, the server cannot know.
    """
    plain_N = (means.copies_N > COPIED_AT) | (means.length_N > TOO_LONG)
    n = len(plain_N)
    below_N = torch.zeros(n, dtype=torch.float64)
    if int((~plain_N).sum()) >= LEAST_COMPARED:
        below_N = (_below(means.direction_N, ~plain_N) + _below(means.agreement_N, ~plain_N)) / 2
    evidence_N = torch.where(plain_N, below_N + FIRST, below_N)
    named_N = evidence_N > SUSPECT_AT
    worst_first = evidence_N.argsort(descending=True, stable=True)
    named_N[worst_first[n // 2 :]] = False
    return named_N


def _below(values_N: Tensor, compared_N: Tensor) -> Tensor:
    """Distance below the median of those compared, in standard deviations of the upper half, to
    which attackers contribute least."""
    compared = values_N[compared_N]
    median = compared.quantile(0.5)
    upper = compared[compared >= median] - median
    return (median - values_N) / (NORMAL * upper.quantile(0.5)).clamp(min=SPREAD_FLOOR)
