"""Honest mistakes of annotators: label noise without intent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Generator, Tensor

from fedrobust.contamination.base import Contamination, DataContamination
from fedrobust.contamination.common import NumClasses, classes, sample_rows
from fedrobust.errors import ConfigError
from fedrobust.utils.validation import Share, Words, check_settings


@check_settings("contamination")
def label_error(
    *,
    rate: Share | None = 0.2,
    confusion: Annotated[
        Sequence[Sequence[float]], Words("K rows of K probabilities, each row summing to 1")
    ]
    | None = None,
    num_classes: NumClasses = None,
) -> Contamination:
    """Symmetric errors by a rate, or errors by a confusion matrix.

    Args:
        rate: exact share of labels changed to another class, all others equally likely; null with a
            confusion matrix.
        confusion: instead of rate: K rows (true class) of K probabilities; every label is drawn
            anew from its row, so the number of changes varies.
        num_classes: K.

    Returns:
        A contamination of labels.

    Raises:
        ConfigError: a setting is out of its range, or not exactly one of rate and confusion is
            given.
    """
    count = classes("label_error", num_classes)
    if rate is None and confusion is not None:
        return Contamination("label_error", data=_by_confusion(_matrix(confusion, count)))
    if rate is not None and confusion is None:
        return Contamination("label_error", data=_symmetric(rate, count))
    raise ConfigError(
        f"contamination.rate={rate}, confusion={confusion}: give exactly one of the two and set "
        "the other to null"
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


def _matrix(confusion: Sequence[Sequence[float]], num_classes: int) -> Tensor:
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
