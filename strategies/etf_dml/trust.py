"""Trust in each client, from its model's scores on the small labelled root set.

Pure functions on score matrices; no model here. N members (clients' models), R root images, K
classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from fedrobust.strategies.etf_dml.evidence import centered_cosines
from fedrobust.strategies.etf_dml.stacking import stack
from torch import Tensor

from fedrobust.aggregation.updates import normalize
from fedrobust.learning.alignment import alignment, root_loss
from fedrobust.utils.validation import check_settings

MAD_FLOOR = 0.01  # below it a spread between clients is taken for noise
MEMORY = 0.5  # share of the past in a client's suspicion
ZERO_AT = 1.5  # suspicion at which trust ends
MOST_DROPPED = 0.4  # share of clients that may be left out in one round
SPARED = 0.1  # trust of those that the limit above spares
STRENGTH = 0.3  # of stacking's pull towards the prior
FORGOTTEN = 0.01  # least part of its share that is remembered of a client, so that it may come back
ALIKE = 4  # power of the cosines: .5 counts little, .9 much


@check_settings("strategy")
@dataclass(frozen=True, slots=True)
class TrustSettings:
    """Whether clients are weighed by what their models' scores on the root set show.

    Attributes:
        trust: gate: each client alone, by its model's alignment with the ETF and its loss;
            stacking: then also all together, by their shares in the ensemble that fits the root set
            best, where equal updates count once; none: no root set is used.
        revert_if_worse: with trust: a student whose loss on the root set has grown by more than the
            standard error of its images' differences returns to its start.
    """

    trust: Literal["stacking", "gate", "none"] = "stacking"
    revert_if_worse: bool = True

    @property
    def wanted(self) -> bool:
        """Whether clients are weighed at all."""
        return self.trust != "none"

    @property
    def reverts(self) -> bool:
        """Whether students are compared with their start."""
        return self.wanted and self.revert_if_worse


@dataclass(frozen=True, slots=True)
class TrustScores:
    """trust_N in [0, 1]; suspicion_N: robust z-scores smoothed over rounds, positive is worse than
    the median client; alignment_N in [-1, 1] and loss_N >= 0 are what they were made of. part_N >
    0: what stacking left of each client's share (1: all)."""

    trust_N: Tensor
    suspicion_N: Tensor
    alignment_N: Tensor
    loss_N: Tensor
    stacking_share_N: Tensor


def gate_trust(
    scores_NRK: Tensor,
    labels_R: Tensor,
    head: str,
    scale: float,
    *,
    clients: tuple[int, ...],
    past: Mapping[int, float],
) -> TrustScores:
    """The gate, every model for itself: trust from its alignment drop and its loss on the root set,
    z = (rz(-alignment) + rz(loss)) / 2.

    The alignment of the global model, from which a drop would be measured, is the same for all
    clients and cancels in rz: it is not needed. `past` holds the suspicion of clients seen before.
    A linear head separates about as well as the ETF.
    """
    alignment_N = torch.stack([alignment(scores_RK, labels_R, head) for scores_RK in scores_NRK])
    loss_N = torch.stack([root_loss(scores_RK, labels_R, scale) for scores_RK in scores_NRK])
    suspicion_N = update_suspicion((robust_z(-alignment_N) + robust_z(loss_N)) / 2, clients, past)
    return TrustScores(
        trust_from_suspicion(suspicion_N),
        suspicion_N,
        alignment_N,
        loss_N,
        torch.ones_like(suspicion_N),
    )


def stacking_trust(
    scores: TrustScores,
    scores_NRK: Tensor,
    labels_R: Tensor,
    scale: float,
    *,
    gram_NN: Tensor,
    sizes_N: Tensor,
    past_N: Tensor,
) -> TrustScores:
    """The result of the gate, refined by the fit of the ensemble of all models.

    Every client's share by size (sizes_N: images, as far as the server believes them) is divided by
    the number of updates like its own (`similar_update_counts`), and multiplied with the gate's
    trust and the square root of the part that it kept in the last round (past_N, 1: new). These
    shares are the prior of `stack`, whose result is what the client gets: trust is the result
    through the share by size, the largest 1.

    The gate alone takes honest clients that lack classes for attackers, and attackers close to the
    mean of the honest for the best: together, the first cost little, and the others, who all send
    the same, count once. A score that is not finite gets nothing.
    """
    usable_N = scores_NRK.isfinite().flatten(1).all(dim=1)
    base_N = normalize(sizes_N * usable_N / similar_update_counts(gram_NN))
    prior_N = normalize(base_N * scores.trust_N * past_N**MEMORY)
    given_N = stack(rescale_scores(scores_NRK, usable_N), labels_R, scale, prior_N, STRENGTH)
    part_N = (given_N / base_N).nan_to_num(0.0).clamp(min=FORGOTTEN)
    worth_N = (given_N / normalize(sizes_N)).nan_to_num(0.0)
    return replace(
        scores, trust_N=worth_N / worth_N.amax().clamp(min=1e-12), stacking_share_N=part_N
    )


def similar_update_counts(gram_NN: Tensor) -> Tensor:
    """(N,) float64, how many updates point where each one does, itself counted: sum_m max(0,
    cos_nm)^4 of the updates after their mean is taken off (`evidence.centered_cosines`). Honest
    clients have 1 to 2, k attackers that send the same have k (as after Fung, Yoon, Beschastnikh,
    RAID 2020, which leaves the mean in). Updates equal to the mean count once."""
    cosines_NN = centered_cosines(gram_NN).clamp(min=0).fill_diagonal_(1)
    return (cosines_NN**ALIKE).sum(dim=1)


def rescale_scores(scores_NRK: Tensor, usable_N: Tensor) -> Tensor:
    """Scores times their `score_factors`; zeros where they are not usable."""
    usable_NRK = torch.where(usable_N[:, None, None], scores_NRK.to(torch.float64), 0.0)
    return usable_NRK * score_factors(usable_NRK, usable_N)[:, None, None]


def score_factors(scores_NRK: Tensor, usable_N: Tensor) -> Tensor:
    """(N,) float64: what brings scores to the median usable client's root mean square where theirs
    is larger, else 1, so that no client outvotes others by the length of its logits (an ETF bounds
    them anyway)."""
    sizes_N = scores_NRK.to(torch.float64).square().mean(dim=(1, 2)).sqrt()
    if not usable_N.any():
        return torch.ones_like(sizes_N)
    bound = sizes_N[usable_N].quantile(0.5)
    return torch.where(usable_N & (sizes_N > bound), bound / sizes_N, 1.0)


def robust_z(values_N: Tensor) -> Tensor:
    """(x - median) / max(1.4826 MAD, .01), float64; 1.4826 makes the MAD of a normal distribution
    its standard deviation."""
    wide_N = values_N.to(torch.float64)
    away_N = wide_N - wide_N.quantile(0.5)
    return away_N / (1.4826 * away_N.abs().quantile(0.5)).clamp(min=MAD_FLOOR)


def update_suspicion(z_N: Tensor, clients: tuple[int, ...], past: Mapping[int, float]) -> Tensor:
    """Suspicion Z = .5 Z + .5 z; a client never seen before starts with z."""
    before_N = torch.tensor(
        [past.get(client, float(z)) for client, z in zip(clients, z_N, strict=True)],
        dtype=torch.float64,
    )
    return MEMORY * before_N + (1 - MEMORY) * z_N


def trust_from_suspicion(suspicion_N: Tensor) -> Tensor:
    """Trust t = clip(1 - max(0, Z) / 1.5, 0, 1), zero for at most 40 % of the clients (rounded
    down).

    Where more would be zero, the most suspicious stay so (ties: the first clients) and the others
    get .1: a little more than nothing, far less than an honest client, so a round in which the gate
    errs for many is not decided by a minority.
    """
    trust_N = (1 - suspicion_N.clamp(min=0) / ZERO_AT).clamp(0, 1)
    worst_first = suspicion_N.argsort(descending=True, stable=True)
    dropped = worst_first[trust_N[worst_first] == 0]
    trust_N[dropped[math.floor(MOST_DROPPED * len(trust_N)) :]] = SPARED
    return trust_N
