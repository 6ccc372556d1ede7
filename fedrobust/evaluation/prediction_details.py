"""What lies behind the metrics of one set of predictions, as pictures show it: confusion matrix,
reliability, ROC curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RELIABILITY_BINS = 10
ROC_POINTS = 51  # false positive rates from 0 to 100 %, evenly spaced


def confusion_counts(probabilities_NK: Tensor, labels_N: Tensor) -> Tensor:
    """(K, K) int64 images: rows true, columns predicted class (the first largest probability)."""
    classes = probabilities_NK.shape[1]
    pairs = labels_N.long() * classes + probabilities_NK.argmax(dim=1)
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Images whose top probability lies in one of the `RELIABILITY_BINS` of equal width.

    Attributes:
        confidence: their mean top probability, percent.
        accuracy: how many are predicted right, percent.
        n: number of images, at least 1.
    """

    confidence: float
    accuracy: float
    n: int


def reliability(probabilities_NK: Tensor, labels_N: Tensor) -> list[ReliabilityBin]:
    """The bins that hold images, by rising confidence; each is closed on the left, the last one on
    both sides.

    Args:
        probabilities_NK: class probabilities in [0, 1].
        labels_N: true classes.

    Returns:
        At most `RELIABILITY_BINS` bins.

    Reference:
        Guo et al., ICML 2017.
    """
    top = probabilities_NK.double().max(dim=1)
    places_N = (top.values * RELIABILITY_BINS).long().clamp(0, RELIABILITY_BINS - 1)
    columns = torch.stack(
        [torch.ones_like(top.values), top.values, (top.indices == labels_N).double()], dim=1
    )
    sums = columns.new_zeros(RELIABILITY_BINS, 3).index_add_(0, places_N, columns)
    return [
        ReliabilityBin(min(100 * confidence / n, 100.0), 100 * hits / n, int(n))
        for n, confidence, hits in sums.tolist()
        if n
    ]


def mean_roc(probabilities_NK: Tensor, labels_N: Tensor) -> list[float] | None:
    """The mean over classes of the ROC curves of one class against the rest.

    Args:
        probabilities_NK: class probabilities in [0, 1].
        labels_N: true classes.

    Returns:
        True positive rates in percent at `ROC_POINTS` false positive rates, evenly spaced from 0 to
        100 %; None where no class has images of its own and others.
    """
    grid = np.linspace(0, 1, ROC_POINTS)
    shares_NK, labels = probabilities_NK.double().numpy(), labels_N.numpy()
    curves = [
        _roc(shares_N, labels == place, grid)
        for place, shares_N in enumerate(shares_NK.T)
        if 0 < (labels == place).sum() < len(labels)
    ]
    return (100 * np.mean(curves, axis=0)).tolist() if curves else None


def _roc(
    shares_N: np.ndarray[tuple[int], np.dtype[np.float64]],
    own_N: np.ndarray[tuple[int], np.dtype[np.bool_]],
    grid: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """True positive rates at false positive rates; images of equal probability enter together."""
    order = np.argsort(-shares_N, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(shares_N[order])), len(order) - 1]
    hits, alarms = np.cumsum(own_N[order])[last], np.cumsum(~own_N[order])[last]
    return np.interp(grid, np.r_[0, alarms / alarms[-1]], np.r_[0, hits / hits[-1]])
