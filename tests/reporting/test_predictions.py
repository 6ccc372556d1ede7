"""Predictions of the final models on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedrobust.errors import DataError
from fedrobust.reporting.predictions import PREDICTIONS, read_predictions, write_predictions
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
        # float16 has 11 bits below 1
        assert torch.allclose(found.probabilities[name], part, atol=2**-11)


def test_the_class_is_that_of_the_exact_probabilities(tmp_path: Path) -> None:
    close = torch.tensor([[0.50000001, 0.50000007]], dtype=torch.float32)  # equal in float16
    write_predictions(tmp_path, torch.tensor([1]), torch.tensor([0]), {"clean": close})
    assert read_predictions(tmp_path).predicted["clean"].tolist() == [1]


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
    np.savez_compressed(path, labels=np.array([1, 0]))
    with pytest.raises(DataError, match="groups"):
        read_predictions(tmp_path)
