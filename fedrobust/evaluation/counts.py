"""What a real site reports of its test images: counts that no small group of images can be read
from.

The confusion matrix of a site leaves with every cell rounded down to a multiple of the site's
smallest cell m, and with the number of its test images rounded to a multiple of m; no other total
leaves. So a cell below m is 0, like an empty one. The images that the rounding leaves out, the
rest, are known only together, and no cell can be recomputed from them: for any reported numbers,
each cell has at least two possible values. (Rounded down, the number of images could give away a
matrix each of whose cells leaves m - 1 images out, where m divides the number of cells; so it is
rounded one image later there. With m = 2 that is not enough: m is 1, for exact counts, or at
least 3.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from fedrobust.evaluation.metrics import NAMES, Counts, Metrics, classification_metrics, rates
from fedrobust.utils.validation import Words

USUAL_CELL = 5  # images
# Reasons for which a site reports nothing: their codes travel, these words are the server's own.
REASONS: Mapping[str, str] = {
    "sum-of-at-least": "the site sends sums of several sites only",
    "max-epsilon": "the site sends nothing whose privacy loss is not accounted for",
    "share-counts": "the site's own configuration keeps its counts",
    "not-finite": "the model answers the site's images with values that are not finite",
}


def _check_cell(value: int) -> int:
    if value == 2:
        raise ValueError("two images")
    return value


MinCell = Annotated[
    int,
    Field(ge=1, le=1_000_000),
    AfterValidator(_check_cell),
    Words("1 (exact counts) or a whole number from 3 to 1000000"),
]


@dataclass(frozen=True, slots=True)
class RoundedCounts:
    """Predictions of a site's test images as counts.

    Attributes:
        cells_KK: (K, K) int64, images by label (row) and predicted class (column), each a multiple
            of `min_cell`.
        images: number of all test images, a multiple of `min_cell`, at least the sum of the cells.
        min_cell: the site's smallest cell, images; 1: nothing is rounded.
    """

    cells_KK: Tensor
    images: int
    min_cell: int

    @property
    def rest(self) -> int:
        """Images that are in no cell, to within `min_cell`."""
        return self.images - int(self.cells_KK.sum())


@dataclass(frozen=True, slots=True)
class Withheld:
    """A site reports nothing of its test images. code: one of `REASONS`."""

    code: str


Scored = tuple[Tensor, Tensor]  # class probabilities (n, K), labels (n,)
# of one client: predictions or counts by condition, or nothing
ClientEvaluation = Mapping[str, Scored | RoundedCounts] | Withheld


def round_images(number: int, num_classes: int, min_cell: int) -> int:
    """A number of test images as a site reports it: a multiple of `min_cell`, at most one above."""
    later = min_cell > 1 and num_classes**2 % min_cell == 0
    return (number + later) // min_cell * min_cell


def round_counts(
    labels_N: Tensor, predicted_N: Tensor, num_classes: int, min_cell: int
) -> RoundedCounts:
    """The confusion matrix of predictions as it may leave a site.

    Args:
        labels_N: true classes, whole numbers in [0, num_classes).
        predicted_N: predicted classes, likewise.
        num_classes: number of classes.
        min_cell: the site's smallest cell, images; 1 or at least 3.

    Returns:
        The rounded matrix and the rounded number of images.
    """
    places_N = labels_N.long().cpu() * num_classes + predicted_N.long().cpu()
    exact = torch.bincount(places_N, minlength=num_classes**2).view(num_classes, num_classes)
    return RoundedCounts(
        exact // min_cell * min_cell,
        round_images(len(places_N), num_classes, min_cell),
        min_cell,
    )


def counted_metrics(counts: RoundedCounts) -> Metrics:
    """Estimates of the metrics of `classification_metrics`, with "n", the rounded number of images.

    The rest is spread evenly over all cells. Classes without a reported cell are left out of the
    means over classes. All are None where the cells hold less than half of the images; auroc and
    ece always: they need each image's probabilities. Exact where nothing was rounded.
    """
    known, cells = counts.cells_KK.to(torch.float64), counts.cells_KK.numel()
    metrics: Metrics = dict.fromkeys(NAMES) | {"n": counts.images}
    if counts.images == 0 or 2 * counts.rest > counts.images:
        return metrics
    spread = known + counts.rest / cells
    rows, columns = known.sum(1) > 0, known.sum(0) > 0
    found = rates(_class_counts(spread, rows, rows | columns))
    share = float(spread.diagonal().sum() / spread.sum())
    named = ("balanced_accuracy", "f1", "precision")
    return metrics | {"accuracy": 100 * share} | {name: float(found[name]) for name in named}


def _class_counts(spread: Tensor, rows: Tensor, seen: Tensor) -> Counts:
    """Counts by class, those of unseen classes 0; rows: classes with reported labelled
    images."""
    return Counts(
        spread.diagonal().where(rows, 0),
        spread.sum(0).where(seen, 0),
        spread.sum(1).where(rows, 0),
    )


def measure(part: Scored | RoundedCounts) -> Metrics:
    """The metrics of a client's report under one condition."""
    return (
        counted_metrics(part) if isinstance(part, RoundedCounts) else classification_metrics(*part)
    )


def count_images(part: Scored | RoundedCounts) -> int:
    """Number of images in a client's report under one condition."""
    return part.images if isinstance(part, RoundedCounts) else len(part[1])
