"""predictions.npz: predictions of a run's final models on the test images, of all together and of
every client's own (docs/outputs.md)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fedrobust.errors import DataError
from fedrobust.evaluation.counts import ClientEvaluation
from fedrobust.utils import files

PREDICTIONS = "predictions.npz"
CLASSES, SHARES, CLIENTS = "predicted_", "probabilities_", "clients_"
# what equal predictions of a client under the first condition are left out for
SAME_AS: Final = {
    "contaminated": "clean",
    "purified_contaminated": "purified_clean",
    "personal_contaminated": "personal_clean",
}


@dataclass(frozen=True, slots=True)
class ClientPredictions:
    """The global model on test images of clients, a row each, client by client.

    Attributes:
        client: (M,) int64 client numbers.
        image: (M,) int64 positions of the images among the run's test images.
        label: (M,) int64 classes, under the client's contamination.
        probabilities: (M, K) float32.
    """

    client: Tensor
    image: Tensor
    label: Tensor
    probabilities: Tensor


@dataclass(frozen=True, slots=True)
class Predictions:
    """labels, groups: (N,) int64, class and patient or lesion of every test image. By evaluation
    ("clean", "corrupted", "twin_clean", ...): predicted, (N,) int64, the class with the first
    largest probability; probabilities, (N, K) float32, in files of earlier versions rounded to
    float16. clients: by condition, "contaminated" without the clients for which it is as "clean";
    empty of real sites and in files of earlier versions."""

    labels: Tensor
    groups: Tensor
    predicted: Mapping[str, Tensor]
    probabilities: Mapping[str, Tensor]
    clients: Mapping[str, ClientPredictions] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return next(iter(self.probabilities.values())).shape[1]


def write_predictions(
    folder: Path,
    labels_N: Tensor,
    groups_N: Tensor,
    scores: Mapping[str, Tensor],
    clients: Mapping[str, ClientPredictions] | None = None,
) -> Path:
    """Write predictions.npz; scores: class probabilities (N, K) by evaluation; clients: by
    condition. Raises OSError."""
    arrays: dict[str, Any] = {
        "labels": labels_N.numpy().astype(np.int32),
        "groups": groups_N.numpy(),
    }
    for name, scores_NK in scores.items():
        whole = np.uint8 if scores_NK.shape[1] <= 256 else np.int32
        arrays[CLASSES + name] = scores_NK.argmax(dim=1).numpy().astype(whole)
        arrays[SHARES + name] = scores_NK.numpy().astype(np.float32)
    for name, part in (clients or {}).items():
        place = f"{CLIENTS}{name}_"
        arrays[f"{place}client"] = part.client.numpy().astype(np.int32)
        arrays[f"{place}image"] = part.image.numpy().astype(np.int32)
        arrays[f"{place}label"] = part.label.numpy().astype(np.int32)
        arrays[f"{place}probabilities"] = part.probabilities.numpy().astype(np.float32)
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)
    return files.write(folder / PREDICTIONS, [archive.getbuffer()])


def pool_clients(
    evaluated: Mapping[int, ClientEvaluation], images: Mapping[int, Tensor]
) -> dict[str, ClientPredictions]:
    """What clients predicted, by condition. A client whose contamination changes no prediction and
    no label is under "clean" only.

    Args:
        evaluated: by client; counts, and clients that report nothing, are left out.
        images: by client the positions of its images among the run's test images.
    """
    rows: dict[str, list[tuple[Tensor, Tensor, Tensor, Tensor]]] = {}
    for client, conditions in sorted(evaluated.items()):
        if not isinstance(conditions, Mapping):
            continue
        known = {name: part for name, part in conditions.items() if isinstance(part, tuple)}
        for name, (scores_MK, labels_M) in known.items():
            other = known.get(SAME_AS.get(name, ""))
            if other and torch.equal(other[0], scores_MK) and torch.equal(other[1], labels_M):
                continue
            number_M = torch.full((len(labels_M),), client)
            rows.setdefault(name, []).append((number_M, images[client], labels_M, scores_MK))
    return {
        name: ClientPredictions(*(torch.cat(column) for column in zip(*parts, strict=True)))
        for name, parts in rows.items()
    }


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
            _read_clients(arrays),
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


def _read_clients(arrays: Mapping[str, Tensor]) -> dict[str, ClientPredictions]:
    """Raises KeyError where a column is missing, ValueError where two differ in length."""
    conditions = [
        name.removeprefix(CLIENTS).removesuffix("_client")
        for name in arrays
        if name.startswith(CLIENTS) and name.endswith("_client")
    ]
    found = {
        name: ClientPredictions(
            client=arrays[f"{CLIENTS}{name}_client"].long(),
            image=arrays[f"{CLIENTS}{name}_image"].long(),
            label=arrays[f"{CLIENTS}{name}_label"].long(),
            probabilities=arrays[f"{CLIENTS}{name}_probabilities"].float(),
        )
        for name in conditions
    }
    for name, one in found.items():
        columns = (one.client, one.image, one.label, one.probabilities)
        if len({len(column) for column in columns}) > 1:
            raise ValueError(f"{CLIENTS}{name}: columns of different lengths")
    return found
