"""Teachers made of the members' scores on the proxy images, and the losses towards them.

Pure functions. M members, P proxy images, K classes; scores are inner products with the ETF (or
logits), `scale` is the model's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedrobust.learning.losses import inner_product_gap, mutual_kl

PRIOR_STEPS, PRIOR_EPSILON = 200, 1e-4
TINY = 1e-12  # least share that is divided by

# (student_scores_BK, rows_B of the proxy images) -> scalar loss
DistillationLoss = Callable[[Tensor, Tensor], Tensor]


def merge_peers(values_MXK: Tensor, teacher: str) -> Tensor:
    """Merge the peers of each of M >= 2 members: the coordinate-wise "median" (the mean of the
    middle two of an even number) or "mean" of all the others; same shape. With the median a
    minority of attackers cannot move a teacher beyond the honest peers' range. One sort serves all
    members."""
    others = len(values_MXK) - 1
    if teacher == "mean":
        return ((values_MXK.sum(dim=0, dtype=torch.float64) - values_MXK) / others).to(values_MXK)
    ordered = values_MXK.sort(dim=0).values

    def nth_other(n: int) -> Tensor:
        """The n-th smallest of the others: without a value at or below the n-th of all, the next
        one moves up."""
        return torch.where(values_MXK > ordered[n], ordered[n], ordered[n + 1])

    return (nth_other((others - 1) // 2) + nth_other(others // 2)) / 2


def peer_probabilities(
    scores_MPK: Tensor, scale: float, temperature: float, teacher: str
) -> Tensor:
    """(M, P, K): each member's teacher, its peers' softmax(scale * scores / T) merged by
    `merge_peers` and renormalised."""
    merged = merge_peers((scale / temperature * scores_MPK).softmax(dim=-1), teacher)
    return merged / merged.sum(dim=-1, keepdim=True).clamp(min=1e-12)


def kl_loss(teacher_PK: Tensor, scale: float, temperature: float) -> DistillationLoss:
    """T^2 KL(teacher || softmax(scale * student / T)) on all inner products;
    needs no labels."""

    def loss(scores_BK: Tensor, rows_B: Tensor) -> Tensor:
        return mutual_kl(scores_BK, teacher_PK[rows_B].to(scores_BK.device), scale, temperature)

    return loss


def true_class_loss(teacher_PK: Tensor, labels_P: Tensor) -> DistillationLoss:
    """Half the squared gap between the student's and the teacher's scores of
    the labelled class alone."""

    def loss(scores_BK: Tensor, rows_B: Tensor) -> Tensor:
        device = scores_BK.device
        return inner_product_gap(
            scores_BK, teacher_PK[rows_B].to(device), labels_P[rows_B].to(device)
        )

    return loss


def mean_scores(scores_NPK: Tensor, shares_NK: Tensor) -> Tensor:
    """(P, K) scores sum_n w_nk s_nk of the weighted ensemble. shares_NK: of sum 1 in every class;
    members without any are left out."""
    chosen = shares_NK.any(dim=1).nonzero().reshape(-1)
    return torch.einsum("nk,npk->pk", shares_NK[chosen].to(scores_NPK), scores_NPK[chosen])


def ensemble(scores_NPK: Tensor, shares_NK: Tensor, scale: float, temperature: float) -> Tensor:
    """(P, K) probabilities softmax(scale / T sum_n w_nk s_nk) of the weighted ensemble. With the
    same shares in all classes this is FedDF's teacher (Lin et al., NeurIPS 2020)."""
    return (scale / temperature * mean_scores(scores_NPK, shares_NK)).softmax(dim=-1)


def match_prior(teacher_PK: Tensor, prior_K: Tensor) -> Tensor:
    """(..., P, K): probabilities in proportion to teacher * exp(b), with the one b (..., K) for
    which their mean over the images is prior_K (within 1e-4).

    As when class frequencies change and what speaks for a class does not (Saerens, Latinne,
    Decaestecker, Neural Computation 2002). b follows from b += log(prior / mean), at most 200
    times.
    """
    logits_PK = teacher_PK.to(torch.float64).clamp(min=TINY).log()
    prior_1K = prior_K.to(torch.float64).clamp(min=TINY)[..., None, :]
    bias_1K = torch.zeros_like(prior_1K)
    for _ in range(PRIOR_STEPS):
        mean_1K = (logits_PK + bias_1K).softmax(dim=-1).mean(dim=-2, keepdim=True)
        if (mean_1K - prior_1K).abs().amax() < PRIOR_EPSILON:
            break
        bias_1K = bias_1K + (prior_1K / mean_1K.clamp(min=TINY)).log()
    return (logits_PK + bias_1K).softmax(dim=-1).to(teacher_PK)


def peer_scores(scores_MPK: Tensor, shares_MK: Tensor) -> Tensor:
    """(M, P, K) scores of the teachers of M >= 2 members: the ensemble of the others, by what their
    shares (all above 0) are without the member's own."""
    total_K = shares_MK.sum(dim=0)
    return torch.stack(
        [
            mean_scores(
                scores_MPK,
                shares_MK.index_fill(0, torch.tensor(m), 0.0) / (total_K - own_K).clamp(min=TINY),
            )
            for m, own_K in enumerate(shares_MK)
        ]
    )
