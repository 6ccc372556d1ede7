"""FedCorr's rule: its three stages, who weighs in them and what hospitals are told."""

from dataclasses import replace

import pytest
import torch
from fedrobust.strategies.fedcorr import fedcorr, find_noisy

from fedrobust.aggregation.updates import Updates
from tests.helpers.rounds import matrix_round

LIDS = (2.0, 2.1, 5.0, 1.9)
EVEN = torch.tensor([1, 1, 2, 1]).double() / 5


def a_round(number, memory=None, lids=LIDS, levels=(0.0, 0.0, 0.4, 0.0)):
    updates = Updates.of(torch.eye(4), torch.tensor([1, 1, 2, 1]))
    reports = [{"lid": lid, "level": level} for lid, level in zip(lids, levels, strict=True)]
    return replace(matrix_round(updates, memory=memory), number=number, reports=reports)


def test_a_high_dimension_is_noisy():
    assert find_noisy(dict(enumerate(LIDS))) == [2]
    assert find_noisy({}) == find_noisy({1: 2.0}) == find_noisy({1: 2.0, 2: 2.0}) == []


def test_the_three_stages():
    rule, memory, told, weights = fedcorr(preprocessing=2, finetuning=2).rule, None, [], []
    for number in range(1, 6):
        found = rule(a_round(number, memory))
        memory = found.memory
        told.append([found.messages[client] for client in (0, 2)])
        weights.append(found.weights_N)
        assert found.extras["noisy"] == [0.0, 0.0, 1.0, 0.0]
    # after rounds 1 and 2 noisy hospitals relabel by losses, before round 5 all of their images;
    # one that is not asked then does so later
    assert told == [
        [{"stage": stage, "relabel": 0}, {"stage": stage, "relabel": word}]
        for stage, word in ((1, 1), (2, 1), (2, 0), (3, 2), (3, 2))
    ]
    without = torch.tensor([1, 1, 0, 1]).double() / 3
    for found, expected in zip(weights, (EVEN, EVEN, without, without, EVEN), strict=True):
        assert torch.allclose(found, expected)


def test_a_level_stays_until_the_end_of_the_finetuning():
    rule, found = fedcorr(preprocessing=1, finetuning=3).rule, None
    without = torch.tensor([1, 1, 0, 1]).double() / 3
    # after the first round of finetuning nobody is told to relabel, and all report 0
    for number, level in enumerate((0.0, 0.4, 0.0, 0.0), start=1):
        memory = found.memory if found else None
        found = rule(a_round(number, memory, levels=(0.0, 0.0, level, 0.0)))
        assert torch.allclose(found.weights_N, EVEN if number == 1 else without)
    assert found.memory["levels"][2] == 0.4


@pytest.mark.parametrize(("level", "weight"), [(0.0, 0.0), (0.05, 0.4), (0.4, 0.0)])
def test_a_noisy_hospital_is_clean_with_a_small_level_alone(level, weight):
    found = fedcorr(preprocessing=1).rule(a_round(2, {"noisy": [2]}, levels=(0.0, 0.0, level, 0.0)))
    assert found.weights_N[2].item() == pytest.approx(weight)


def test_dimensions_are_averaged_over_the_rounds():
    rule = fedcorr(preprocessing=3).rule
    first = rule(a_round(1, lids=(2.0, 2.1, 2.0, 5.0)))
    assert first.memory["noisy"] == [3]
    second = rule(a_round(2, first.memory, lids=(2.0, 2.1, 9.0, 0.0)))
    # means 2, 2.1, 5.5, 2.5
    assert second.memory["noisy"] == [2]


def test_where_every_hospital_seems_wrong_all_weigh():
    found = fedcorr(preprocessing=1).rule(a_round(2, levels=(0.5, 0.5, 0.5, 0.5)))
    assert torch.allclose(found.weights_N, EVEN)


@pytest.mark.parametrize("report", [{}, {"lid": "x"}, {"lid": torch.ones(1)}, {"lid": -1.0}])
def test_reports_that_are_no_numbers_are_not_used(report):
    found = fedcorr().rule(replace(a_round(1), reports=[report] * 4))
    assert (found.memory["lids"], found.memory["noisy"], found.messages) == ({}, [], {})
