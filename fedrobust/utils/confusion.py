"""Confusion matrices of annotators: T_kl, the probability of the label l where class k is true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from fedrobust.errors import ConfigError
from fedrobust.utils.validation import Words

ESTIMATE: Literal["estimate"] = "estimate"
ConfusionRows = Annotated[
    Sequence[Sequence[float]], Words("K rows of K probabilities, each row summing to 1")
]
Confusion = Annotated[
    Sequence[Sequence[float]] | Literal["estimate"],
    Words("estimate, or K rows of K probabilities, each row summing to 1"),
]


def confusion_matrix(
    key: str, rows: str | Sequence[Sequence[float]], num_classes: int | None = None
) -> Tensor:
    """The matrix of a setting.

    Args:
        key: the setting's full name, for the error line.
        rows: K rows (true class) of K probabilities of the label.
        num_classes: K; None: as many as there are rows.

    Returns:
        (K, K) float64.

    Raises:
        ConfigError: these are not K rows of K probabilities that each sum to 1.
    """
    count = len(rows) if num_classes is None else num_classes
    wrong = ConfigError(
        f"{key}={rows}: must be {count} rows of {count} probabilities, each row summing to 1"
    )
    try:
        matrix_KK = torch.tensor([list(row) for row in rows], dtype=torch.float64)
    except (TypeError, ValueError):
        raise wrong from None
    if matrix_KK.shape != (count, count) or bool((matrix_KK < 0).any()):
        raise wrong
    if not torch.allclose(matrix_KK.sum(dim=1), torch.ones(count, dtype=torch.float64), atol=1e-6):
        raise wrong
    return matrix_KK
