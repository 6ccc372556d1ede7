"""Agreement of a model's scores with the labels of labelled images: the basis of trust, and what a
stealthy attacker must keep."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

WORST_LOSS = 1000.0  # above any loss that unit features can reach (twice the scale, plus log K)


def cosines(scores: Tensor, head: str) -> Tensor:
    """Scores (..., K) as cosines in [-1, 1] between what the model says and each class.

    "etf": the inner products of unit features and anchors are such cosines. "linear": logits mean
    the same after a shift, so they are centred over the classes; the cosine of that vector with the
    class's vertex e_k - 1/K of the simplex in logit space, sqrt(K/(K-1)) v_k / |v|, has the same
    range and the same ideal, and no scaling of the logits changes it.
    """
    if head == "etf":
        return scores
    num_classes = scores.shape[-1]
    centred = scores - scores.mean(dim=-1, keepdim=True)
    return math.sqrt(num_classes / (num_classes - 1)) * functional.normalize(
        centred, dim=-1, eps=1e-8
    )


def alignment(scores_RK: Tensor, labels_R: Tensor, head: str) -> Tensor:
    """The mean over classes (of those in the labels) of the mean cosine with the true class,
    float64 in [-1, 1]. Scores that are not finite count as the worst: -1."""
    if not scores_RK.isfinite().all():
        return torch.tensor(-1.0, dtype=torch.float64)
    true_R = cosines(scores_RK.to(torch.float64), head).gather(1, labels_R[:, None])[:, 0]
    return torch.stack(
        [true_R[labels_R == label].mean() for label in torch.unique(labels_R)]
    ).mean()


def root_loss(scores_RK: Tensor, labels_R: Tensor, scale: float) -> Tensor:
    """Mean cross-entropy of softmax(scale * scores), float64 in [0, 1000]; not finite counts as
    1000."""
    loss = functional.cross_entropy(scale * scores_RK.to(torch.float64), labels_R)
    return loss.nan_to_num(nan=WORST_LOSS, posinf=WORST_LOSS).clamp(max=WORST_LOSS)


def root_losses(scores_RK: Tensor, labels_R: Tensor, scale: float) -> Tensor:
    """(R,) the same for each image."""
    wide_RK = scale * scores_RK.to(torch.float64)
    loss_R = functional.cross_entropy(wide_RK, labels_R, reduction="none")
    return loss_R.nan_to_num(nan=WORST_LOSS, posinf=WORST_LOSS).clamp(max=WORST_LOSS)


def is_worse(after_R: Tensor, before_R: Tensor) -> bool:
    """Whether losses on the same images grew by more than chance explains: their mean difference is
    above its standard error (of one image: above 0)."""
    grown_R = after_R - before_R
    spread = float(grown_R.std()) if len(grown_R) > 1 else 0.0
    return float(grown_R.mean()) > spread / math.sqrt(len(grown_R))
