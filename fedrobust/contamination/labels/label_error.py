"""Honest mistakes of annotators: label noise without intent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from fedrobust.contamination.base import Contamination, DataContamination
from fedrobust.contamination.common import classes, sample_rows
from fedrobust.errors import ConfigError
from fedrobust.utils.validation import number


def label_error(
    *,
    rate: float | None = 0.2,
    confusion: Sequence[Sequence[float]] | None = None,
    num_classes: int | None = None,
) -> Contamination:
    """Symmetric errors by `rate`, or errors by a confusion matrix; exactly one of the two is given,
    the other is null.

    rate: exact share, in [0, 1], of labels changed to another class, all others equally likely.
    confusion: K rows of K probabilities, row = true class; every label is drawn anew from its row,
    so the number of changes varies. num_classes: K.
    """
    count = classes("label_error", num_classes)
    if (rate is None) == (confusion is None):
        raise ConfigError(
            f"contamination.rate={rate}, confusion={confusion}: give exactly one of "
            "the two and set the other to null"
        )
    if confusion is not None:
        return Contamination("label_error", data=_by_confusion(_matrix(confusion, count)))
    return Contamination(
        "label_error", data=_symmetric(number("contamination.rate", rate, low=0, high=1), count)
    )


def _symmetric(rate: float, num_classes: int) -> DataContamination:
    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        rows = sample_rows(torch.arange(len(labels)), rate, generator)
        if len(rows) == 0:
            return images, labels
        steps = torch.randint(1, num_classes, rows.shape, generator=generator)
        return images, labels.index_copy(0, rows, (labels[rows] + steps) % num_classes)

    return data


def _by_confusion(confusion_KK: Tensor) -> DataContamination:
    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        if len(labels) == 0:
            return images, labels
        drawn = torch.multinomial(confusion_KK[labels], 1, generator=generator).reshape(-1)
        return images, labels if torch.equal(drawn, labels) else drawn

    return data


def _matrix(confusion: Any, num_classes: int) -> Tensor:
    """(K, K) float64, or ConfigError unless the rows are probabilities that sum to 1."""
    wrong = ConfigError(
        f"contamination.confusion={confusion}: must be {num_classes} rows of "
        f"{num_classes} probabilities, each row summing to 1"
    )
    try:
        matrix_KK = torch.tensor([list(row) for row in confusion], dtype=torch.float64)
    except (TypeError, ValueError):
        raise wrong from None
    if matrix_KK.shape != (num_classes, num_classes) or bool((matrix_KK < 0).any()):
        raise wrong
    if not torch.allclose(
        matrix_KK.sum(dim=1), torch.ones(num_classes, dtype=torch.float64), atol=1e-6
    ):
        raise wrong
    return matrix_KK
