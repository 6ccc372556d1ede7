"""Helpers of the sanitisers: class centres, and the share of a class that is dropped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedrobust.utils.validation import Count, NonNegative, check_settings

AT_CENTRE = 1e-9  # scores up to here are rounding: such an image is never suspicious

# (features_Nd float64, labels_N, centres_Kd float64) -> scores_N, larger: more suspicious
Score = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Sanitiser:
    """A defence with its settings. score None: nothing is ever suspicious.

    anchors: where a class's centre comes from: "centroid", the mean feature of its images, or
    "etf", the fixed anchor that no data can move. quantile: the share, in [0, 1), of every class
    that is dropped, the highest scores first. threshold: images with at most this score are kept
    all the same. warmup: server rounds before anything is dropped.
    """

    name: str
    score: Score | None = None
    anchors: str = "centroid"
    quantile: float = 0.0
    threshold: float = 0.0
    warmup: int = 0

    def active(self, server_round: int) -> bool:
        """Whether images are dropped in this round (the first is 1)."""
        return self.score is not None and server_round > self.warmup


@check_settings("sanitiser")
@dataclass(frozen=True, slots=True)
class SanitiserSettings:
    """Settings of every sanitiser.

    Attributes:
        anchors: centre of a class; centroid: mean feature of its images; etf: the fixed anchor that
            no data can move.
        quantile: share of every class that is dropped, the highest scores first.
        threshold: images with at most this score are kept all the same.
        warmup: rounds before anything is dropped.
    """

    anchors: Literal["centroid", "etf"] = "centroid"
    quantile: Annotated[float, Field(ge=0, le=0.99)] = 0.2
    threshold: NonNegative = 0.0
    warmup: Count = 2

    def make(self, name: str, score: Score) -> Sanitiser:
        """The sanitiser of this name with its score."""
        quantile, threshold = float(self.quantile), float(self.threshold)
        return Sanitiser(name, score, self.anchors, quantile, threshold, self.warmup)


@dataclass(frozen=True, slots=True)
class SanitiserResult:
    """The decision on N images: kept_N bool; scores_N float64, larger is more suspicious."""

    kept_N: Tensor
    scores_N: Tensor


def sanitise(
    sanitiser: Sanitiser, features_Nd: Tensor, labels_N: Tensor, anchors_dK: Tensor | None = None
) -> SanitiserResult:
    """Decide on N images by their features (N, d) and labels (N,); any device, the decision is on
    the CPU.

    anchors_dK: the fixed anchors of the K classes, for anchors="etf" (features are brought to unit
    length then). Raises ValueError for features that are not finite, labels that do not fit, or
    anchors that are missing.
    """
    features_Nd, labels_N = features_Nd.detach().cpu().to(torch.float64), labels_N.cpu()
    _check(features_Nd, labels_N)
    if sanitiser.score is None or not len(labels_N):
        return SanitiserResult(
            torch.ones(len(labels_N), dtype=torch.bool),
            torch.zeros(len(labels_N), dtype=torch.float64),
        )
    if sanitiser.anchors == "etf":
        features_Nd = torch.nn.functional.normalize(features_Nd, dim=1, eps=1e-8)
        centres_Kd = _anchored(anchors_dK, features_Nd, labels_N)
    else:
        centres_Kd = centroids(features_Nd, labels_N)
    scores_N = sanitiser.score(features_Nd, labels_N, centres_Kd)
    return SanitiserResult(
        kept_rows(scores_N, labels_N, sanitiser.quantile, sanitiser.threshold), scores_N
    )


def _check(features_Nd: Tensor, labels_N: Tensor) -> None:
    if features_Nd.ndim != 2 or labels_N.shape != features_Nd.shape[:1]:
        raise ValueError(
            f"features {tuple(features_Nd.shape)} and labels {tuple(labels_N.shape)} "
            "do not go together: give (N, d) and (N,)"
        )
    if not features_Nd.isfinite().all():
        raise ValueError(
            "features hold values that are not finite, so nothing can be said of their images"
        )
    if len(labels_N) and int(labels_N.min()) < 0:
        raise ValueError(f"label {int(labels_N.min())}: classes are numbered from 0")


def _anchored(anchors_dK: Tensor | None, features_Nd: Tensor, labels_N: Tensor) -> Tensor:
    if anchors_dK is None:
        raise ValueError("anchors=etf: needs the fixed anchors of a model with an ETF head")
    if anchors_dK.shape[0] != features_Nd.shape[1] or anchors_dK.shape[1] <= int(labels_N.max()):
        found = (
            f"anchors {tuple(anchors_dK.shape)}, features of "
            f"{features_Nd.shape[1]} values, labels up to {int(labels_N.max())}"
        )
        raise ValueError(f"{found}: these do not go together")
    return anchors_dK.detach().cpu().to(torch.float64).T


def centroids(features_Nd: Tensor, labels_N: Tensor) -> Tensor:
    """The mean feature of each class up to the largest label, (K, d); a class without images has
    NaN, which stands for "unknown"."""
    num_classes = int(labels_N.max()) + 1
    sums_Kd = torch.zeros(num_classes, features_Nd.shape[1], dtype=features_Nd.dtype).index_add_(
        0, labels_N, features_Nd
    )
    counts_K = torch.bincount(labels_N, minlength=num_classes)
    return torch.where(counts_K[:, None] > 0, sums_Kd / counts_K.clamp(min=1)[:, None], torch.nan)


def kept_rows(
    scores_N: Tensor, labels_N: Tensor, quantile: float, threshold: float = 0.0
) -> Tensor:
    """All but the floor(quantile * n) most suspicious of the n images of each class, as a mask, and
    of those only what lies above the threshold (at 0 an image at its very centre is kept).

    So a class is never emptied, and quantile 0 keeps everything. Of equal scores the later image is
    kept.
    """
    mask_N = torch.ones(len(labels_N), dtype=torch.bool)
    for label in torch.unique(labels_N).tolist():
        rows = (labels_N == label).nonzero().reshape(-1)
        most = math.floor(quantile * len(rows) + 1e-9)  # 0.29 * 100 is 28.999999999999996
        suspicious = rows[scores_N[rows].sort(descending=True, stable=True).indices[:most]]
        mask_N[suspicious] = scores_N[suspicious] <= max(threshold, AT_CENTRE)
    return mask_N
