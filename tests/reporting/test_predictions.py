"""Predictions of the final models on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedrobust.errors import DataError
from fedrobust.evaluation.counts import RoundedCounts, Withheld
from fedrobust.evaluation.metrics import classification_metrics
from fedrobust.reporting.predictions import (
    PREDICTIONS,
    pool_clients,
    read_predictions,
    write_predictions,
)
from fedrobust.utils.seeding import generator


def test_what_is_written_is_read(tmp_path: Path) -> None:
    g = generator(0, "predictions")
    labels, groups = (
        torch.randint(7, (50,), generator=g),
        torch.randint(-(2**40), 2**40, (50,), generator=g),
    )
    scores = {
        name: torch.rand(50, 7, generator=g).softmax(dim=1) for name in ("clean", "twin_clean")
    }
    write_predictions(tmp_path, labels, groups, scores)
    found = read_predictions(tmp_path)
    assert torch.equal(found.labels, labels)
    assert torch.equal(found.groups, groups)
    assert found.num_classes == 7
    for name, part in scores.items():
        assert torch.equal(found.predicted[name], part.argmax(dim=1))
        assert torch.equal(found.probabilities[name], part)  # every bit
    assert found.clients == {}


def test_auroc_and_calibration_are_recomputed_from_the_file(tmp_path: Path) -> None:
    # probabilities next to 1, which float16 makes equal: 1 - 1e-5 r has 2^-12 as its next below 1
    g = generator(0, "predictions")
    rare_N = 1e-5 * torch.rand(200, generator=g)
    scores = torch.stack([1 - rare_N, rare_N], dim=1)
    labels = (rare_N + 3e-6 * torch.randn(200, generator=g) > 5e-6).long()
    exact = classification_metrics(scores, labels)
    write_predictions(tmp_path, labels, torch.arange(200), {"clean": scores})
    found = read_predictions(tmp_path)
    assert classification_metrics(found.probabilities["clean"], found.labels) == exact
    rounded = classification_metrics(scores.half().float(), labels)
    assert rounded["auroc"] != exact["auroc"]


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    # the classes of the exact probabilities, beside shares that are equal in float16
    np.savez_compressed(
        tmp_path / PREDICTIONS,
        labels=np.array([1], np.int32),
        groups=np.array([0]),
        predicted_clean=np.array([1], np.uint8),
        probabilities_clean=np.array([[0.5, 0.5]], np.float16),
    )
    found = read_predictions(tmp_path)
    assert found.predicted["clean"].tolist() == [1]
    assert found.probabilities["clean"].tolist() == [[0.5, 0.5]]
    assert found.clients == {}


def test_clients_predictions_are_rows_of_client_image_label_and_probabilities(
    tmp_path: Path,
) -> None:
    own = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1])
    flipped = own[0], torch.tensor([1, 0])
    single = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    counts = RoundedCounts(torch.tensor([[5, 0], [0, 5]]), 10, 5)
    clients = pool_clients(
        {
            2: {"clean": own, "contaminated": flipped},
            0: {"clean": single, "contaminated": single},
            1: Withheld("share-counts"),
            3: {"clean": counts},
        },
        {0: torch.tensor([4]), 2: torch.tensor([1, 3])},
    )
    write_predictions(
        tmp_path, torch.zeros(5).long(), torch.arange(5), {"clean": torch.eye(2)[[0] * 5]}, clients
    )
    found = read_predictions(tmp_path).clients
    assert list(found) == ["clean", "contaminated"]
    assert found["clean"].client.tolist() == [0, 2, 2]
    assert found["clean"].image.tolist() == [4, 1, 3]
    assert found["clean"].label.tolist() == [0, 0, 1]
    assert torch.equal(found["clean"].probabilities, torch.cat([single[0], own[0]]))
    # client 0's contamination changes nothing: it is under clean only
    assert found["contaminated"].client.tolist() == [2, 2]
    assert found["contaminated"].label.tolist() == [1, 0]


def test_many_classes(tmp_path: Path) -> None:
    write_predictions(
        tmp_path, torch.tensor([299]), torch.tensor([0]), {"clean": torch.eye(300)[[299]]}
    )
    assert read_predictions(tmp_path).predicted["clean"].tolist() == [299]


def test_equal_predictions_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_predictions(
            tmp_path / name, torch.tensor([1, 0]), torch.tensor([0, 1]), {"clean": torch.eye(2)}
        )
    assert (tmp_path / "one" / PREDICTIONS).read_bytes() == (
        tmp_path / "two" / PREDICTIONS
    ).read_bytes()


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_predictions(tmp_path)
    path = write_predictions(
        tmp_path, torch.tensor([1, 0]), torch.tensor([0, 1]), {"clean": torch.eye(2)}
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"predictions\.npz: not a readable file"):
        read_predictions(tmp_path)
    np.savez_compressed(
        path, labels=np.array([1, 0]), groups=np.array([0, 1]), predicted_clean=np.array([1])
    )
    with pytest.raises(DataError, match="other images"):
        read_predictions(tmp_path)
    np.savez_compressed(
        path,
        labels=np.array([1]),
        groups=np.array([0]),
        clients_clean_client=np.array([0, 0]),
        clients_clean_image=np.array([0]),
        clients_clean_label=np.array([0]),
        clients_clean_probabilities=np.array([[1.0]]),
    )
    with pytest.raises(DataError, match="clients_clean: columns of different lengths"):
        read_predictions(tmp_path)
    np.savez_compressed(path, labels=np.array([1, 0]))
    with pytest.raises(DataError, match="groups"):
        read_predictions(tmp_path)
