"""Teachers made of the members' scores on the proxy images, and the losses towards them.

Pure functions. M members, P proxy images, K classes; scores are inner products with the ETF (or
logits), `scale` is the model's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedrobust.learning.losses import inner_product_gap, mutual_kl

MOST_WEIGHT = 5.0  # of an image in the ensemble's class balance

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
    scores_MPK: Tensor,
    scale: float,
    temperature: float,
    teacher: str,
    permanent_PK: Tensor | None = None,
) -> Tensor:
    """(M, P, K): each member's teacher, its peers' softmax(scale * scores / T) merged by
    `merge_peers` and renormalised.

    permanent_PK: scores of one more peer, which gives half of every teacher.
    """
    merged = merge_peers((scale / temperature * scores_MPK).softmax(dim=-1), teacher)
    merged = merged / merged.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    return (
        merged
        if permanent_PK is None
        else (merged + (scale / temperature * permanent_PK).softmax(dim=-1)) / 2
    )


def kl_loss(
    teacher_PK: Tensor, scale: float, temperature: float, weights_P: Tensor | None = None
) -> DistillationLoss:
    """T^2 KL(teacher || softmax(scale * student / T)) on all inner products;
    needs no labels."""

    def loss(scores_BK: Tensor, rows_B: Tensor) -> Tensor:
        weights_B = None if weights_P is None else weights_P[rows_B].to(scores_BK.device)
        return mutual_kl(
            scores_BK, teacher_PK[rows_B].to(scores_BK.device), scale, temperature, weights_B
        )

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


def ensemble(scores_NPK: Tensor, weights_N: Tensor, scale: float, temperature: float) -> Tensor:
    """(P, K) probabilities softmax(sum_n w_n scale * scores_n / T) of the weighted ensemble (FedDF,
    Lin et al., NeurIPS 2020, with trust for weights). weights_N are shares; members of weight 0 are
    left out."""
    chosen = weights_N.nonzero().reshape(-1)
    mean_PK = torch.einsum("n,npk->pk", weights_N[chosen].to(scores_NPK), scores_NPK[chosen])
    return (scale / temperature * mean_PK).softmax(dim=-1)


def balance(classes_P: Tensor) -> Tensor:
    """(P,) weights of mean 1 that are in inverse proportion to the size of an image's class, cut at
    5 times the mean before they are brought to mean 1 (again)."""
    counts_K = classes_P.bincount().to(torch.float32)
    weights_P = (1 / counts_K)[classes_P]
    weights_P = (weights_P / weights_P.mean()).clamp(max=MOST_WEIGHT)
    return weights_P / weights_P.mean()
