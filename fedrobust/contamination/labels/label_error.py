"""Honest mistakes of annotators: label noise without intent."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedrobust.contamination.base import Contamination, DataContamination
from fedrobust.contamination.common import NumClasses, classes, sample_rows
from fedrobust.errors import ConfigError
from fedrobust.utils.confusion import ConfusionRows, confusion_matrix
from fedrobust.utils.validation import Share, check_settings


@check_settings("contamination")
def label_error(
    *,
    rate: Share | None = 0.2,
    confusion: ConfusionRows | None = None,
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
        matrix_KK = confusion_matrix("contamination.confusion", confusion, count)
        return Contamination("label_error", data=_by_confusion(matrix_KK))
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
