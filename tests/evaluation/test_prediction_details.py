"""Confusion, reliability and ROC by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from fedrobust.evaluation.metrics import auroc
from fedrobust.evaluation.prediction_details import (
    ROC_POINTS,
    ReliabilityBin,
    confusion_counts,
    mean_roc,
    reliability,
)
from fedrobust.utils.seeding import generator

SHARES = torch.tensor([[0.7, 0.3], [0.55, 0.45], [0.6, 0.4], [0.0, 1.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 0, 1])


def test_confusion_has_true_rows_and_predicted_columns() -> None:
    assert confusion_counts(SHARES, LABELS).tolist() == [[2, 0], [1, 1]]


def test_reliability_bins_by_hand() -> None:
    found = reliability(SHARES, LABELS)
    assert [one.n for one in found] == [1, 1, 1, 1]
    assert [one.accuracy for one in found] == [0.0, 100.0, 100.0, 100.0]
    assert [one.confidence for one in found] == pytest.approx([55, 60, 70, 100], abs=1e-4)


def test_images_of_a_bin_are_averaged() -> None:
    shares = torch.tensor([[0.92, 0.08], [0.94, 0.06]], dtype=torch.float64)
    [one] = reliability(shares, torch.tensor([0, 1]))
    assert one == ReliabilityBin(pytest.approx(93.0), 50.0, 2)


def test_the_mean_roc_is_that_of_scikit_learn() -> None:
    g = generator(0, "roc")
    shares = torch.rand(80, 4, generator=g).mul(20).round().add(0.1)  # many ties
    shares = (shares / shares.sum(dim=1, keepdim=True)).double()
    labels = torch.randint(0, 3, (80,), generator=g)  # class 3 has no images
    grid = np.linspace(0, 1, ROC_POINTS)
    curves = []
    for place in range(3):
        alarms, hits, _ = roc_curve(labels == place, shares[:, place], drop_intermediate=False)
        curves.append(np.interp(grid, alarms, hits))
    found = mean_roc(shares, labels)
    assert found == pytest.approx(100 * np.mean(curves, axis=0))
    area = 100 * float(np.mean([np.trapezoid(one, grid) for one in curves]))
    assert area == pytest.approx(auroc(shares, labels), abs=1.0)


def test_without_two_sides_there_is_no_curve() -> None:
    assert mean_roc(SHARES, torch.zeros(4, dtype=torch.int64)) is None
