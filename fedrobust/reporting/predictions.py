"""predictions.npz: predictions of a run's final models on the test images, for comparisons of runs
image by image."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrobust.errors import DataError
from fedrobust.utils import files

PREDICTIONS = "predictions.npz"
CLASSES, SHARES = "predicted_", "probabilities_"


@dataclass(frozen=True, slots=True)
class Predictions:
    """labels, groups: (N,) int64, class and patient or lesion of every test image. By evaluation
    ("clean", "corrupted", "twin_clean", ...): predicted, (N,) int64, the class with the first
    largest probability; probabilities, (N, K) float32, rounded to float16."""

    labels: Tensor
    groups: Tensor
    predicted: Mapping[str, Tensor]
    probabilities: Mapping[str, Tensor]

    @property
    def num_classes(self) -> int:
        return next(iter(self.probabilities.values())).shape[1]


def write_predictions(
    folder: Path, labels_N: Tensor, groups_N: Tensor, scores: Mapping[str, Tensor]
) -> Path:
    """Write predictions.npz; scores: class probabilities (N, K) by evaluation. The classes are
    stored beside the rounded probabilities, which can have ties where the exact ones had none.
    Raises OSError."""
    arrays: dict[str, Any] = {
        "labels": labels_N.numpy().astype(np.int32),
        "groups": groups_N.numpy(),
    }
    for name, scores_NK in scores.items():
        whole = np.uint8 if scores_NK.shape[1] <= 256 else np.int32
        arrays[CLASSES + name] = scores_NK.argmax(dim=1).numpy().astype(whole)
        arrays[SHARES + name] = scores_NK.numpy().astype(np.float16)
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)
    return files.write(folder / PREDICTIONS, [archive.getbuffer()])


def read_predictions(folder: Path) -> Predictions:
    """The predictions of an output folder. Raises FileNotFoundError, or DataError where the file is
    damaged."""
    path = folder / PREDICTIONS
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: torch.from_numpy(archive[name]) for name in archive.files}
        found = Predictions(
            arrays["labels"].long(),
            arrays["groups"].long(),
            {
                name.removeprefix(CLASSES): part.long()
                for name, part in arrays.items()
                if name.startswith(CLASSES)
            },
            {
                name.removeprefix(SHARES): part.float()
                for name, part in arrays.items()
                if name.startswith(SHARES)
            },
        )
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: not a readable file of predictions ({error}); delete its folder and run again"
        ) from error
    if any(
        len(part) != len(found.labels)
        for part in (*found.predicted.values(), *found.probabilities.values())
    ):
        raise DataError(
            f"{path}: holds predictions of other images than its labels; delete its "
            "folder and run again"
        )
    return found
