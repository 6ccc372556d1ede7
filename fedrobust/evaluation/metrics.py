"""Classification metrics in percent of one set of images.

Macro averages run over the classes that occur among the labels or the predictions; a class that is
never predicted has precision 0 and a class with no hit has F1 0 (scikit-learn's `zero_division=0`).
Balanced accuracy is the mean recall of the classes that occur among the labels. Reported values are
computed in float32, step by step as torchmetrics does it, and are equal to its values bit by bit
(tests/evaluation/test_metrics.py); importing it would take a second of every run. `rates` gives the
same four threshold metrics in float64 for thousands of weighted confusion matrices at once: the
bootstrap of the drops needs it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

Metrics = dict[str, float | int | None]
NAMES = ("accuracy", "balanced_accuracy", "f1", "precision", "auroc", "ece")
ECE_BINS = 15
LOWER_IS_BETTER = frozenset({"ece"})


@dataclass(frozen=True, slots=True)
class Counts:
    """All that the threshold metrics need of one or many (...) confusion matrices: per class (...,
    K) the images that were hit (diagonal), predicted (column sums) and labelled (row sums). Whole
    numbers in float64."""

    hits: Tensor
    predicted: Tensor
    labelled: Tensor


def success_rate(scores_NK: Tensor, target: int) -> float:
    """Percent of the images, at least one, that are put into an attacker's class."""
    return 100 * float((scores_NK.argmax(dim=1) == target).double().mean())


def improves(metric: str, value: float, best: float, by: float = 0.0) -> bool:
    """Whether a value of this metric is better than another one, by more than so much. NaN is
    better than nothing."""
    return value < best - by if metric in LOWER_IS_BETTER else value > best + by


def hit_table(labels_N: Tensor, predicted_N: Tensor, num_classes: int) -> Tensor:
    """(N, 3K) float32 of 0 and 1: each image's share in `Counts` (hits, predicted, labelled), ready
    to be summed or weighted."""
    labelled, predicted = (
        one_hot(one.long(), num_classes).float() for one in (labels_N, predicted_N)
    )
    return torch.cat([labelled * predicted, predicted, labelled], dim=1)


def rates(counts: Counts) -> dict[str, Tensor]:
    """accuracy, balanced_accuracy, f1 and precision (...) in percent from counts (..., K); NaN
    where there is no image."""
    hits, predicted, labelled = counts.hits, counts.predicted, counts.labelled
    occurs = labelled + predicted > 0
    return {
        "accuracy": 100 * hits.sum(-1) / labelled.sum(-1),
        "balanced_accuracy": _mean(hits, labelled, labelled > 0),
        "f1": _mean(2 * hits, labelled + predicted, occurs),
        "precision": _mean(hits, predicted, occurs),
    }


def _mean(part: Tensor, whole: Tensor, counted: Tensor) -> Tensor:
    """100 times the mean of part / whole over the classes that are counted, with 0 / 0 = 0."""
    return 100 * (part / whole.clamp(min=1)).where(counted, 0).sum(-1) / counted.sum(-1)


def classification_metrics(probabilities_NK: Tensor, labels_N: Tensor) -> Metrics:
    """`NAMES` in percent (None where undefined) and "n", the number of images; the prediction is
    the first largest probability.

    probabilities_NK: rows of class probabilities in [0, 1]. labels_N: whole numbers in [0, K).
    auroc: mean one-vs-rest area over the classes that have images of their own and others; None
    without such a class. ece: expected calibration error of the top probability (Guo et al. 2017,
    eq. 3) in 15 bins of equal width, closed on the left; full confidence is a bin of its own. An
    empty set has no metrics, only n = 0. Raises ValueError on NaN, on values outside [0, 1] and on
    labels outside [0, K).
    """
    _check(probabilities_NK, labels_N)
    if len(labels_N) == 0:
        return dict.fromkeys(NAMES) | {"n": 0}
    probabilities_NK, labels_N = probabilities_NK.to(torch.float64).clamp(0, 1), labels_N.long()
    shares = {
        **_threshold_shares(probabilities_NK.argmax(dim=1), labels_N, probabilities_NK.shape[1]),
        "ece": _calibration_error(probabilities_NK, labels_N),
    }
    percent = {name: 100 * float(share) for name, share in shares.items()}
    return {**percent, "auroc": auroc(probabilities_NK, labels_N), "n": len(labels_N)}


def _threshold_shares(predicted_N: Tensor, labels_N: Tensor, num_classes: int) -> dict[str, Tensor]:
    """The metrics that depend on the predicted classes alone, in [0, 1]."""
    pairs_N = labels_N * num_classes + predicted_N
    confusion_KK = torch.bincount(pairs_N, minlength=num_classes**2).reshape(num_classes, -1)
    hits_K, predicted_K, labelled_K = confusion_KK.diag(), confusion_KK.sum(0), confusion_KK.sum(1)
    recall_K = _share(hits_K, labelled_K)
    num_occurring = (predicted_K + labelled_K > 0).sum()
    return {
        "accuracy": _share(hits_K.sum(), labelled_K.sum()),
        "balanced_accuracy": recall_K[labelled_K > 0].mean(),
        "f1": (_share(2 * hits_K, predicted_K + labelled_K) / num_occurring).sum(),
        "precision": (_share(hits_K, predicted_K) / num_occurring).sum(),
    }


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Part / whole of whole numbers in float32, with 0 / 0 = 0."""
    return part.float() / whole.clamp(min=1)


def _calibration_error(probabilities_NK: Tensor, labels_N: Tensor) -> Tensor:
    """The mean distance, over the images, of their bin's mean confidence to its accuracy."""
    confidence_N, predicted_N = probabilities_NK.max(dim=1)
    confidence_N = confidence_N.float()
    edges = torch.linspace(0, 1, ECE_BINS + 1, device=confidence_N.device)
    bins_N = torch.bucketize(confidence_N, edges, right=True) - 1

    def sums(values_N: Tensor) -> Tensor:
        return torch.zeros_like(edges).scatter_add_(0, bins_N, values_N)

    count = sums(torch.ones_like(confidence_N))
    filled = count.clamp(min=1)
    confidence, accuracy = (
        sums(confidence_N) / filled,
        sums((predicted_N == labels_N).float()) / filled,
    )
    return ((accuracy - confidence).abs() * (count / count.sum())).sum()


def _check(probabilities_NK: Tensor, labels_N: Tensor) -> None:
    if probabilities_NK.ndim != 2 or labels_N.shape != probabilities_NK.shape[:1]:
        raise ValueError(
            f"probabilities of shape {tuple(probabilities_NK.shape)} do not fit "
            f"labels of shape {tuple(labels_N.shape)}"
        )
    # A sum of float32 shares may exceed 1 by rounding; NaN fails both comparisons.
    if not bool(((probabilities_NK >= -1e-5) & (probabilities_NK <= 1 + 1e-5)).all()):
        raise ValueError("probabilities must be numbers in [0, 1] (found NaN or a value outside)")
    if not bool(((labels_N >= 0) & (labels_N < probabilities_NK.shape[1])).all()):
        raise ValueError(f"labels must be in [0, {probabilities_NK.shape[1]})")


def auroc(probabilities_NK: Tensor, labels_N: Tensor) -> float | None:
    """Macro one-vs-rest area under the ROC curve in percent; ties count one half. None if no class
    has both sides."""
    own_NK = one_hot(labels_N.long(), probabilities_NK.shape[1])
    both_sides = (own_NK.any(dim=0) & (own_NK == 0).any(dim=0)).nonzero().reshape(-1).tolist()
    # summed in float32, a perfect ranking may come out a little above 1
    areas = [min(float(_area(probabilities_NK[:, k], own_NK[:, k])), 1.0) for k in both_sides]
    return 100 * sum(areas) / len(areas) if areas else None


def _area(scores_N: Tensor, own_N: Tensor) -> Tensor:
    """The area under the ROC curve of scores, by trapezoids; own_N: 1 where a high score is right,
    else 0, both at least once."""
    order_N = scores_N.argsort(descending=True)
    sorted_N = scores_N[order_N]
    last_of_ties = torch.cat(
        [sorted_N[1:] != sorted_N[:-1], sorted_N.new_ones(1, dtype=torch.bool)]
    )
    ends = last_of_ties.nonzero().reshape(-1)
    right = own_N[order_N].cumsum(0)[ends]
    wrong = 1 + ends - right
    right, wrong = (torch.cat([one.new_zeros(1), one]) for one in (right, wrong))
    return torch.trapezoid(right / right[-1], wrong / wrong[-1])
