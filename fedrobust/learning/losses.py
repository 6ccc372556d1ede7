"""Losses on scores: dot regression with Rect, cross-entropy, balanced softmax, four that bear wrong
labels, and the two terms of mutual learning.

Scores are (B, K): inner products of unit features with the ETF's anchors, in [-1, 1], or the logits
of a linear head. All is computed in float32 (float64 for float64 scores) with autocast off.
Conventions of every loss here: an empty batch costs 0 (with zero gradients), values that are not
finite come out as a loss that is not finite, labels are int64 in [0, K).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from fedrobust.errors import ConfigError
from fedrobust.utils.confusion import ESTIMATE, Confusion, confusion_matrix
from fedrobust.utils.validation import NonNegative, PositiveCount, Share, check_settings

Loss = Callable[[Tensor, Tensor], Tensor]
# (student_scores_BK, teacher_scores_BK, labels_B) -> scalar
ScoreDistillation = Callable[[Tensor, Tensor, Tensor], Tensor]

ROBUST = (  # against wrong labels
    *("forward_correction", "generalised_cross_entropy", "symmetric_cross_entropy"),
    "label_smoothing",
)
NAMES = ("dot_regression", "cross_entropy", "balanced_softmax", *ROBUST)
SMALLEST = 1e-30  # of a confusion's entry before its logarithm is taken
SCOPES = ("batch", "client")
# what a student learns from a teacher: all inner products, or that of the true class alone
DISTILLATION_LOSSES = ("kl", "true_class")


def full_precision(tensor: Tensor) -> Any:
    """A context for float32 arithmetic on the tensor's device, also inside autocast."""
    return torch.autocast(tensor.device.type, enabled=False)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _mean(values_B: Tensor) -> Tensor:
    return values_B.sum() / max(len(values_B), 1)


def class_counts(labels_B: Tensor, num_classes: int) -> Tensor:
    """Images per class (K,), float32."""
    return torch.bincount(labels_B, minlength=num_classes).to(torch.float32)


@torch.no_grad()
def rect_lengths(
    labels_B: Tensor, num_classes: int, cap: float | None = 10.0, counts_K: Tensor | None = None
) -> Tensor:
    """Rect: the length r_k (K,) that each anchor has as a training target, longer for rarer
    classes.

    r_k = sqrt(gamma / c_k), gamma = images / classes present. The counts c are those of the batch
    (Yang et al.'s code), or `counts_K` of all images of a client. A class that is absent from the
    counts keeps length 1, whichever they are, as in that code's batches (its count over the whole
    data set divides by zero there). cap: upper bound of the weight r_k^2, for one mislabelled image
    of a rare class would otherwise weigh as much as a whole class (None: no bound). r_k^2 is the
    weight of an image of class k, so that every class present weighs the same.
    """
    if counts_K is None:
        counts = class_counts(labels_B, num_classes)
    else:
        counts = counts_K.to(labels_B.device, torch.float32)
    present = counts > 0
    gamma = counts.sum() / present.sum().clamp(min=1)
    weights_K = (gamma / counts.clamp(min=1)).clamp(max=math.inf if cap is None else cap)
    return weights_K.sqrt().where(present, 1.0)


def dot_regression(scores_BK: Tensor, labels_B: Tensor, lengths_K: Tensor | None = None) -> Tensor:
    """Dot regression on unit features: 1/(2B) sum_i r_y^2 (1 - cos_i)^2, cos_i = u_i . m_y the
    score of the true class.

    Yang et al. 2022, eq. 9, with targets r_y m_y (`rect_lengths`; None: all 1). It attracts to the
    true anchor only, and its gradient with respect to the features vanishes at cos = 1 and, through
    the normalisation, at cos = -1.
    """
    with full_precision(scores_BK):
        gap_B = 1 - _wide(scores_BK).gather(1, labels_B[:, None])[:, 0]
        weights_B = 1.0 if lengths_K is None else _wide(lengths_K)[labels_B].square()
        return _mean(0.5 * weights_B * gap_B.square())


def cross_entropy(scores_BK: Tensor, labels_B: Tensor, scale: float = 1.0) -> Tensor:
    """Mean cross-entropy of softmax(scale * scores).

    With inner products the scale must be well above 1: at perfect alignment the top probability is
    only 1 / (1 + (K-1) exp(-scale K/(K-1))), .309 for K = 8 and scale 1.
    """
    with full_precision(scores_BK):
        return _mean(functional.cross_entropy(scale * _wide(scores_BK), labels_B, reduction="none"))


def balanced_softmax(
    scores_BK: Tensor, labels_B: Tensor, counts_K: Tensor, scale: float = 1.0
) -> Tensor:
    """Cross-entropy of scale * scores + log max(count, 1) with the class counts of the training
    images (Ren et al. 2020).

    The prior is learnt away: predictions use the plain scores.
    """
    with full_precision(scores_BK):
        prior_K = counts_K.to(scores_BK.device, torch.float32).clamp(min=1).log()
        return _mean(
            functional.cross_entropy(scale * _wide(scores_BK) + prior_K, labels_B, reduction="none")
        )


@check_settings("client.robust_loss")
@dataclass(frozen=True, slots=True)
class RobustLoss:
    """Settings of the losses that bear wrong labels.

    Attributes:
        q: of generalised_cross_entropy; towards 0 it is cross-entropy, 1 is the mean absolute
            error.
        alpha: weight of cross-entropy in symmetric_cross_entropy.
        beta: weight of reverse cross-entropy in symmetric_cross_entropy.
        log_zero: A, what symmetric_cross_entropy takes for the logarithm of 0, below 0.
        smoothing: share of a label that label_smoothing spreads over all classes.
        confusion: of forward_correction; K rows (true class) of K probabilities of the label, or
            estimate, by each hospital for itself.
        warmup: rounds of plain cross-entropy before an estimated confusion is used.
    """

    q: Annotated[float, Field(gt=0, le=1)] = 0.7
    alpha: NonNegative = 0.1
    beta: NonNegative = 1.0
    log_zero: Annotated[float, Field(lt=0)] = -4.0
    smoothing: Share = 0.1
    confusion: Confusion = ESTIMATE
    warmup: PositiveCount = 2

    def __post_init__(self) -> None:
        if self.confusion != ESTIMATE:
            confusion_matrix("client.robust_loss.confusion", self.confusion)


def _log_probabilities(scores_BK: Tensor, scale: float) -> Tensor:
    return functional.log_softmax(scale * _wide(scores_BK), dim=1)


def _of_label(values_BK: Tensor, labels_B: Tensor) -> Tensor:
    return values_BK.gather(1, labels_B[:, None])[:, 0]


def _weighted_mean(values_B: Tensor, labels_B: Tensor, lengths_K: Tensor | None) -> Tensor:
    """Mean in which an image of class k weighs r_k^2 (None: 1)."""
    return _mean(values_B if lengths_K is None else _wide(lengths_K)[labels_B].square() * values_B)


def forward_correction(
    scores_BK: Tensor,
    labels_B: Tensor,
    confusion_KK: Tensor,
    scale: float = 1.0,
    lengths_K: Tensor | None = None,
) -> Tensor:
    """Mean of -log (p T)_y: the probabilities p = softmax(scale * scores) of the true classes go
    through the confusion T, T_kl the probability that an annotator writes l where k is true, before
    they are compared with the label y.

    Patrini et al., CVPR 2017: with the right T the minimiser is that of clean labels. Agrees with
    the authors' code to 1e-12 on 60 random scores of 10 classes. lengths_K: Rect, an image of label
    k weighs r_k^2.
    """
    with full_precision(scores_BK):
        log_p_BK = _log_probabilities(scores_BK, scale)
        log_T_KK = confusion_KK.to(log_p_BK).clamp(min=SMALLEST).log()
        written_B = torch.logsumexp(log_p_BK + log_T_KK.T[labels_B], dim=1)
        return _weighted_mean(-written_B, labels_B, lengths_K)


def generalised_cross_entropy(
    scores_BK: Tensor,
    labels_B: Tensor,
    q: float = 0.7,
    scale: float = 1.0,
    lengths_K: Tensor | None = None,
) -> Tensor:
    """Mean of (1 - p_y^q) / q, p = softmax(scale * scores): cross-entropy for q -> 0, the mean
    absolute error (half of it) for q = 1.

    Zhang & Sabuncu, NeurIPS 2018, eq. 6. An image that the model holds for another class has less
    gradient than under cross-entropy, by the factor p_y^q. lengths_K: as in `forward_correction`.
    """
    with full_precision(scores_BK):
        log_p_B = _of_label(_log_probabilities(scores_BK, scale), labels_B)
        return _weighted_mean(-torch.expm1(q * log_p_B) / q, labels_B, lengths_K)


def symmetric_cross_entropy(
    scores_BK: Tensor,
    labels_B: Tensor,
    settings: RobustLoss,
    scale: float = 1.0,
    lengths_K: Tensor | None = None,
) -> Tensor:
    """Mean of alpha * cross-entropy + beta * reverse cross-entropy, which with log 0 := A is
    -A (1 - p_y), p = softmax(scale * scores).

    Wang et al., ICCV 2019. Agrees with the authors' code to 1e-12 on 60 random scores of 10 classes
    with A = ln 1e-4, which that code takes. lengths_K: as in `forward_correction`.
    """
    with full_precision(scores_BK):
        log_p_B = _of_label(_log_probabilities(scores_BK, scale), labels_B)
        reverse_B = settings.log_zero * torch.expm1(log_p_B)
        both_B = settings.beta * reverse_B - settings.alpha * log_p_B
        return _weighted_mean(both_B, labels_B, lengths_K)


def label_smoothing(
    scores_BK: Tensor,
    labels_B: Tensor,
    smoothing: float = 0.1,
    scale: float = 1.0,
    lengths_K: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of softmax(scale * scores) with (1 - smoothing) of the label and the rest
    spread evenly over all K classes.

    Szegedy et al., CVPR 2016, section 7; against wrong labels Lukasik et al., ICML 2020. lengths_K:
    as in `forward_correction`.
    """
    with full_precision(scores_BK):
        smoothed_B = functional.cross_entropy(
            scale * _wide(scores_BK), labels_B, reduction="none", label_smoothing=smoothing
        )
        return _weighted_mean(smoothed_B, labels_B, lengths_K)


def mutual_kl(
    student_scores_BK: Tensor,
    teacher_probabilities_BK: Tensor,
    scale: float,
    temperature: float = 2.0,
) -> Tensor:
    """Mutual learning on all inner products: T^2 / B sum_i KL(teacher_i || softmax(scale *
    student_i / T)).

    The teacher's probabilities (rows sum to 1, already at temperature T) are constants. Zhang et
    al. 2018 (arXiv 1706.00384), eq. 3, with the T^2 of distillation.
    """
    with full_precision(student_scores_BK):
        log_student_BK = functional.log_softmax(
            scale / temperature * _wide(student_scores_BK), dim=1
        )
        teacher_BK = _wide(teacher_probabilities_BK.detach())
        divergence_B = functional.kl_div(log_student_BK, teacher_BK, reduction="none").sum(1)
        return temperature**2 * _mean(divergence_B)


def inner_product_gap(
    student_scores_BK: Tensor, teacher_scores_BK: Tensor, labels_B: Tensor
) -> Tensor:
    """Mutual learning on the inner product with the true anchor alone: 1/(2B) sum_i (a_i[y_i] -
    teacher_i[y_i])^2, teacher constant."""
    with full_precision(student_scores_BK):
        gap_BK = _wide(student_scores_BK) - _wide(teacher_scores_BK.detach())
        return _mean(0.5 * gap_BK.gather(1, labels_B[:, None])[:, 0].square())


def make_score_distillation(
    distillation_loss: str, scale: float, temperature: float
) -> ScoreDistillation:
    """Loss that pulls a student's scores (B, K) towards a teacher's, given the labels (B,).

    Args:
        distillation_loss: "kl", `mutual_kl` on all inner products; "true_class",
            `inner_product_gap` on that with the true anchor alone.
        scale: Of both models' scores.
        temperature: By which both sides are softened under "kl", above 0.

    Returns:
        (student_scores_BK, teacher_scores_BK, labels_B) -> scalar.
    """
    if distillation_loss == "true_class":
        return inner_product_gap

    def kl(student_BK: Tensor, teacher_BK: Tensor, labels_B: Tensor) -> Tensor:
        taught_BK = functional.softmax(scale / temperature * teacher_BK.float(), dim=1)
        return mutual_kl(student_BK, taught_BK, scale, temperature)

    return kl


def make_loss(
    name: str,
    *,
    scale: float,
    counts_K: Tensor | None = None,
    rect: bool = True,
    rect_scope: str = "batch",
    rect_cap: float | None = 10.0,
    robust: RobustLoss | None = None,
) -> Loss:
    """The loss of that name as a function of (scores_BK, labels_B) alone.

    counts_K: images per class, needed by balanced_softmax and by Rect in the scope client. Rect
    lengthens the targets of dot_regression; in the losses that bear wrong labels, which compare
    classes, an image weighs as much as there, r_y^2. It leaves cross_entropy and balanced_softmax
    as they are. robust: settings of the former; None: their defaults. An estimated confusion is to
    be handed over as a matrix: without one labels count as right.
    """
    if name not in NAMES:
        raise ConfigError(f"client.loss={name}: must be one of {', '.join(NAMES)}")
    if name == "cross_entropy":
        return lambda scores_BK, labels_B: cross_entropy(scores_BK, labels_B, scale)
    if name == "balanced_softmax":
        counts = _required(counts_K, "client.loss=balanced_softmax")
        return lambda scores_BK, labels_B: balanced_softmax(scores_BK, labels_B, counts, scale)
    lengths = _rect(rect_scope, rect_cap, counts_K) if rect else _no_lengths
    if name == "dot_regression":
        return lambda scores_BK, labels_B: dot_regression(
            scores_BK, labels_B, lengths(scores_BK, labels_B)
        )
    loss = _robust_loss(name, RobustLoss() if robust is None else robust, scale)
    return lambda scores_BK, labels_B: loss(scores_BK, labels_B, lengths(scores_BK, labels_B))


def _no_lengths(scores_BK: Tensor, labels_B: Tensor) -> None:
    return None


def _rect(scope: str, cap: float | None, counts_K: Tensor | None) -> Callable[..., Tensor | None]:
    """Rect's lengths for (scores_BK, labels_B)."""
    if scope not in SCOPES:
        raise ConfigError(f"client.rect_scope={scope}: must be one of {', '.join(SCOPES)}")
    known = None if scope == "batch" else _required(counts_K, f"client.rect_scope={scope}")
    return lambda scores_BK, labels_B: rect_lengths(labels_B, scores_BK.shape[1], cap, known)


def _robust_loss(
    name: str, settings: RobustLoss, scale: float
) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """One of ROBUST as a function of (scores_BK, labels_B, lengths_K)."""
    if name == "generalised_cross_entropy":
        return lambda scores, labels, lengths: generalised_cross_entropy(
            scores, labels, settings.q, scale, lengths
        )
    if name == "symmetric_cross_entropy":
        return lambda scores, labels, lengths: symmetric_cross_entropy(
            scores, labels, settings, scale, lengths
        )
    if name == "label_smoothing":
        return lambda scores, labels, lengths: label_smoothing(
            scores, labels, settings.smoothing, scale, lengths
        )
    if settings.confusion == ESTIMATE:
        return lambda scores, labels, lengths: forward_correction(
            scores, labels, torch.eye(scores.shape[1], device=scores.device), scale, lengths
        )
    known = confusion_matrix("client.robust_loss.confusion", settings.confusion)
    return lambda scores, labels, lengths: forward_correction(scores, labels, known, scale, lengths)


def _required(counts_K: Tensor | None, setting: str) -> Tensor:
    if counts_K is None:
        raise ConfigError(f"{setting}: needs the images per class, and none were given")
    return counts_K
