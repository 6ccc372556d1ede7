"""Losses and estimates against values that their authors' programs gave for the same scores."""

from __future__ import annotations

import math

import pytest
import torch

from fedrobust.learning.losses import (
    RobustLoss,
    balanced_softmax,
    forward_correction,
    generalised_cross_entropy,
    mutual_kl,
    symmetric_cross_entropy,
)
from fedrobust.learning.noisy_labels import local_dimensions
from tests.helpers.waves import waves

SCORES, LABELS = 2 * waves(9, 8, 4), torch.arange(8) % 4


def test_forward_correction() -> None:
    confusion = waves(10, 4, 4).abs() + 3 * torch.eye(4, dtype=torch.float64)
    confusion /= confusion.sum(dim=1, keepdim=True)
    found = forward_correction(SCORES, LABELS, confusion)
    assert float(found) == pytest.approx(1.6741807248932723, abs=1e-12)


def test_symmetric_cross_entropy() -> None:
    # their logarithm of 0 is that of 1e-4
    found = symmetric_cross_entropy(SCORES, LABELS, RobustLoss(log_zero=math.log(1e-4)))
    assert float(found) == pytest.approx(7.592917684745118, abs=1e-12)


def test_generalised_cross_entropy() -> None:
    """The program is that of the authors of symmetric cross-entropy."""
    found = generalised_cross_entropy(SCORES, LABELS, q=0.7)
    assert float(found) == pytest.approx(1.0080415384307488, abs=1e-12)


def test_the_loss_of_a_noisy_hospital_in_fednoro() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    counts, scores = torch.tensor([3.0, 2, 2, 1]), SCORES.float()
    taught = torch.softmax(2 * waves(11, 8, 4).float() / 0.8, dim=1)
    own = balanced_softmax(scores, labels, counts)
    found = 0.6 * own + 0.4 * mutual_kl(scores + counts.log(), taught, 1.0, 1.0)
    assert float(found) == pytest.approx(1.6995775699615479, abs=1e-6)


def test_local_dimensions_of_fedcorr() -> None:
    points = (2 * waves(12, 24, 3)).softmax(dim=1)
    wanted = [2.1289718, 1.2276657, 1.6241216, 1.2544861, 1.5480371]
    # they add 1e-6 to the largest distance
    assert local_dimensions(points)[:5].tolist() == pytest.approx(wanted, rel=1e-4)
