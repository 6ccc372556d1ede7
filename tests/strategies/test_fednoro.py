"""FedNoRo's rule: who is noisy by the losses that hospitals report, who then weighs how much, and
what they are told."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fedrobust.strategies.fednoro import (
    distance_aware_weights,
    fednoro,
    find_noisy,
    ramp_up,
    scaled_losses,
)

from fedrobust.aggregation.round import ServerData
from fedrobust.aggregation.updates import Updates
from tests.helpers.rounds import matrix_round

# hospitals 0, 1 and 3 have small losses; class 2 is missing at hospital 1
LOSSES = {
    0: [0.2, 0.3, 0.4],
    1: [0.3, 0.2, -1.0],
    2: [1.9, 2.2, 1.8],
    3: [0.2, 0.25, 0.5],
    4: [2.1, 1.8, 2.0],
}


def a_round(number=1, memory=None, reports=None, counts=(1, 1, 2, 1, 1)):
    # hospital 2 lies 3 from 1, hospital 4 lies 4 from 3
    matrix = torch.tensor([[0.0, 0.0], [1.0, 0.0], [4.0, 0.0], [0.0, 2.0], [0.0, 6.0]])
    task = matrix_round(Updates.of(matrix, torch.tensor(counts)), memory=memory)
    if reports is None:
        reports = [{"class_losses": torch.tensor(one)} for one in LOSSES.values()]
    data = ServerData(SimpleNamespace(num_classes=3))
    return replace(task, number=number, reports=reports, server_data=data)


def test_losses_of_each_class_are_scaled_and_a_missing_class_gets_the_smallest():
    found = scaled_losses(torch.tensor([[1.0, 5.0, -1.0], [3.0, -1.0, -1.0], [2.0, 7.0, -1.0]]))
    assert found.tolist() == [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 1.0, 0.0]]


def test_hospitals_with_large_losses_are_noisy():
    assert find_noisy(LOSSES) == [2, 4]
    assert find_noisy(dict(reversed(LOSSES.items()))) == [2, 4]
    assert find_noisy({}) == find_noisy({3: [1.0, 1.0]}) == []


def test_weights_by_hand():
    # D = (0, 0, 3/4, 0, 4/4): images (1, 1, 2, 1, 1) times (1, 1, e^-.75, 1, e^-1)
    noisy = torch.tensor([False, False, True, False, True])
    found = distance_aware_weights(a_round(), noisy)
    parts = torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    parts *= torch.exp(-torch.tensor([0.0, 0.0, 0.75, 0.0, 1.0], dtype=torch.float64))
    assert torch.allclose(found, parts / parts.sum())


@pytest.mark.parametrize("all_of_them", [True, False])
def test_hospitals_of_one_kind_weigh_by_images(all_of_them):
    noisy = torch.full((5,), all_of_them)
    assert torch.allclose(
        distance_aware_weights(a_round(), noisy), torch.tensor([1, 1, 2, 1, 1]).double() / 6
    )


def test_the_weight_of_learning_from_the_global_model_grows():
    # exp(-5), exp(-5 / 4), 1, 1
    assert [ramp_up(t, 2) for t in (0, 1, 2, 9)] == pytest.approx(
        [math.exp(-5), math.exp(-5 / 4), 1.0, 1.0]
    )


def test_the_stages():
    rule = fednoro(warmup=2, weight=0.5, ramp=1).rule
    first = rule(a_round(1))
    assert first.messages == {}
    assert first.extras["noisy"] == [0.0] * 5
    assert torch.allclose(first.weights_N, torch.tensor([1, 1, 2, 1, 1]).double() / 6)
    last = rule(a_round(2, first.memory))
    # told after the last round of the warm-up, whose own weights know nothing of it
    assert torch.equal(last.weights_N, first.weights_N)
    assert last.extras["noisy"] == [0.0, 0.0, 1.0, 0.0, 1.0]
    assert {client: told["noisy"] for client, told in last.messages.items()} == {
        0: 0, 1: 0, 2: 1, 3: 0, 4: 1,
    }  # fmt: skip
    assert last.messages[2]["weight"] == pytest.approx(0.5 * math.exp(-5))
    after = rule(a_round(3, last.memory, reports=[{}] * 5))
    assert after.messages[2]["weight"] == 0.5
    assert after.weights_N[2] < last.weights_N[2]
    assert after.memory["noisy"] == [2, 4]


def test_reports_of_another_shape_or_kind_are_not_used():
    reports = [{"class_losses": torch.ones(7)}, {"class_losses": "1"}, {}, {"other": 1.0}, {}]
    found = fednoro(warmup=1).rule(a_round(reports=reports))
    assert found.memory == {"losses": {}, "noisy": []}
    assert found.messages == {}


def test_of_hospitals_that_are_sampled_the_last_report_counts():
    rule = fednoro(warmup=2).rule
    first = rule(a_round(1))
    second = rule(a_round(2, first.memory, reports=[{}] * 5))
    assert second.memory["noisy"] == [2, 4]
