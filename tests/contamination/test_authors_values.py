"""Attacks against values that their authors' programs gave for the same updates."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from torch.nn import functional

from fedrobust.contamination.backdoors.chameleon import contrastive_loss
from fedrobust.contamination.updates import min_sum as module
from fedrobust.contamination.updates.distance_bounded import UpdateDistances
from fedrobust.contamination.updates.min_max import min_max
from fedrobust.contamination.updates.min_sum import min_sum
from fedrobust.contamination.updates.poisonedfl import push
from tests.helpers.attacks import attack_matrix
from tests.helpers.waves import waves

UPDATES = torch.cat([torch.zeros(1, 6), waves(14, 5, 6).float()])


def test_poisonedfl() -> None:
    found = push(waves(15, 8), waves(17, 8), waves(16, 8).sign(), factor=8.0)
    wanted = [-3.0632612, -9.5841308, -11.5361033, -7.0250442]
    wanted += [2.5885711, 0.8137393, -2.1095927, -6.2106155]
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)


def test_min_max() -> None:
    wanted = [-0.5838558, -0.0535806, -0.6543186, -0.1812398, -0.7551317, -0.9577839]
    assert attack_matrix(min_max(), UPDATES, (0,))[0].tolist() == pytest.approx(wanted, abs=1e-4)


def test_min_sum_with_the_smallest_sum() -> None:
    def within(crowd: UpdateDistances):
        limit = float(crowd.pairs.sum(dim=1).min())
        return lambda gamma: float(crowd.squares_from(gamma).sum()) <= limit, 10.0

    with patch.object(module, "within_largest_sum", within):
        found = attack_matrix(min_sum(), UPDATES, (0,))[0]
    wanted = [-0.3741548, 0.149892, -0.3962925, 0.0473366, -0.4923669, -0.6573496]
    assert found.tolist() == pytest.approx(wanted, abs=1e-4)


def test_the_contrastive_loss_of_chameleon() -> None:
    features = functional.normalize(waves(13, 10, 4).float(), dim=1)
    found = contrastive_loss(features, torch.arange(10) % 3, temperature=0.1)
    assert float(found) == pytest.approx(7.2295708656311035, abs=1e-5)
