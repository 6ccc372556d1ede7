"""Defences that look into the clients' models, DeepSight and consistency scoring: by hand, and what
they promise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fedrobust.strategies import server_optimizers
from fedrobust.strategies.deepsight import (
    LastLayer,
    accept_clusters,
    deepsight,
    division_differences,
    last_layer_updates,
    threshold_exceedings,
    update_energies,
)
from fedrobust.strategies.fedavg import fedavg
from fedrobust.strategies.preaggregation.consistency import consistency, consistency_scores
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from fedrobust.aggregation.composition import compose_strategy
from fedrobust.aggregation.round import Round, ServerData
from fedrobust.aggregation.updates import Updates
from fedrobust.errors import ConfigError
from fedrobust.state import Layout, State, load, read, views
from fedrobust.types import Samples
from tests.helpers.models import classifier, samples
from tests.helpers.rounds import matrix_round, normal

few = settings(max_examples=5)
seeds = st.integers(0, 2**32)


def round_of(model: Any, matrix_ND: Tensor, proxy: Samples | None = None) -> Round:
    """A round of these updates of a model."""
    layout = Layout.of(model)
    state = read(model, layout)
    buffers = state.buffers.expand(len(matrix_ND), -1).clone()
    updates = replace(Updates.of(matrix_ND), layout=layout, buffers_NB=buffers)
    data = ServerData(model, proxy=samples(4) if proxy is None else proxy)
    return Round(1, state, updates, data, Generator().manual_seed(0))


def shuffled(case: Round, seed: int) -> tuple[Round, Tensor]:
    """The same with the clients in another order."""
    order = torch.randperm(len(case.updates), generator=Generator().manual_seed(seed))
    updates = replace(
        case.updates,
        matrix_ND=case.updates.matrix_ND[order],
        buffers_NB=case.updates.buffers_NB[order],
    )
    return replace(case, updates=updates, generator=Generator().manual_seed(0)), order


# DeepSight


def test_neups_and_exceedings_by_hand() -> None:
    # magnitudes 1 + 1, 1 (the bias) and 1: squares 4 1 1 of 6; above a third of 4/6: one
    layer = LastLayer(
        torch.tensor([[[1.0, -1], [0, 0], [0, 1]], [[1, 0], [0, 1], [1, 0]]]).double(),
        torch.tensor([[0.0, 1, 0], [0, 0, 0]]).double(),
    )
    neups = update_energies(layer)
    torch.testing.assert_close(neups, torch.tensor([[4, 1, 1], [2, 2, 2]]).double() / 6)
    assert threshold_exceedings(neups).tolist() == [1, 3]
    # without biases the first has 4 0 1 of 5
    neups = update_energies(LastLayer(layer.weights_NKF, None))
    torch.testing.assert_close(neups[0], torch.tensor([4, 0, 1]).double() / 5)
    assert update_energies(LastLayer(torch.zeros(1, 3, 2).double(), None)).tolist() == [[0, 0, 0]]


def test_clusters_by_hand() -> None:
    clusters = torch.tensor([0, 0, 0, 1, 1, -1, -1])
    suspicious = torch.tensor([True, False, False, True, True, True, False])
    # a third of the first cluster is suspicious, all of the second; two clients are alone
    assert accept_clusters(clusters, suspicious, 1 / 3).tolist() == [False] * 6 + [True]
    assert accept_clusters(clusters, suspicious, 0.4).tolist() == [True] * 3 + [False] * 3 + [True]


@pytest.mark.parametrize("head", ["linear", "etf"])
def test_the_last_layer_is_the_classifier_or_what_the_anchors_make_of_the_projection(
    head: str,
) -> None:
    model = classifier(head, num_classes=4)
    case = round_of(model, normal(0, 3, Layout.of(model).num_parameters))
    layer = last_layer_updates(case)
    row = views(Layout.of(model).parameters, case.updates.row(1))
    if head == "linear":
        torch.testing.assert_close(layer.weights_NKF[1].float(), row["last.weight"])
        assert layer.biases_NK is not None
        torch.testing.assert_close(layer.biases_NK[1].float(), row["last.bias"])
        return
    assert layer.biases_NK is None
    assert layer.weights_NKF.shape == (3, 4, 8)
    features = normal(1, 8)  # scores change by the anchors' products with the projected features
    wanted = (row["last.weight"] @ features) @ model.anchors
    torch.testing.assert_close(layer.weights_NKF[1].float() @ features, wanted)


def test_division_differences_are_mean_ratios_of_probabilities() -> None:
    model = classifier("linear", num_classes=4)
    size = Layout.of(model).num_parameters
    case = round_of(model, torch.stack([torch.zeros(size), normal(0, size)]))
    found = division_differences(case, 5, 2)
    assert found.shape == (2, 2, 4)
    torch.testing.assert_close(found[:, 0], torch.ones(2, 4).double())
    images = torch.rand(10, 3, 8, 8, generator=Generator().manual_seed(0))
    model.eval()
    with torch.no_grad():
        load(model, Layout.of(model), case.reference)
        base = model(images).softmax(1)
        moved = State(case.reference.parameters + case.updates.row(1), case.reference.buffers)
        load(model, Layout.of(model), moved)
        wanted = (model(images).softmax(1) / base)[5:].mean(dim=0)
    torch.testing.assert_close(found[1, 1].float(), wanted, rtol=1e-3, atol=1e-4)


@few
@given(seeds, st.sampled_from(["linear", "etf"]))
def test_clients_that_train_one_class_alone_are_left_out(seed: int, head: str) -> None:
    model = classifier(head, num_classes=4)
    layout = Layout.of(model)
    matrix = 0.01 * normal(seed, 10, layout.num_parameters)
    for n, row in enumerate(matrix):
        last = views(layout.parameters, row)["last.weight"]
        if n < 7:
            last += 0.1 * normal(seed + n, *last.shape).sign()
        elif head == "linear":
            last[2] += 2
            views(layout.parameters, row)["last.bias"][2] += 2
        else:  # the update whose class vectors M'W are nearly zero but for one
            last += 2 * torch.linalg.pinv(model.anchors.T)[:, 2:3] * torch.ones(1, 8)
    if head == "etf":  # the pseudo-inverse spreads over the others: a third of it
        assert last_layer_updates(round_of(model, matrix)).weights_NKF[8].abs().sum(1).argmax() == 2
    case = round_of(model, matrix)
    result = deepsight(inputs=16, draws=1).rule(case)
    if head == "linear":
        assert result.weights_N[7:].sum() == 0
        assert result.extras["exceedings"][7:] == [1, 1, 1]
        assert (result.weights_N[:7] > 0).sum() >= 4
    other, order = shuffled(case, seed)
    again = deepsight(inputs=16, draws=1).rule(other)
    torch.testing.assert_close(again.weights_N, result.weights_N[order])
    torch.testing.assert_close(again.state.parameters, result.state.parameters)


def test_deepsight_says_what_it_cannot_do() -> None:
    model = classifier("linear", num_classes=4)
    case = round_of(model, torch.zeros(3, Layout.of(model).num_parameters))
    with pytest.raises(ConfigError, match=r"^strategy=deepsight: .*no client changed it"):
        deepsight().rule(case)
    case = round_of(model, normal(5, 3, Layout.of(model).num_parameters))
    without = replace(case, server_data=ServerData(model))
    with pytest.raises(ConfigError, match=r"^server\.proxy_images=0: strategy=deepsight"):
        deepsight().rule(without)
    model.last.requires_grad_(False)
    case = round_of(model, torch.zeros(3, Layout.of(model).num_parameters))
    with pytest.raises(ConfigError, match=r"^strategy=deepsight: inspects the update"):
        deepsight().rule(case)
    with pytest.raises(ConfigError, match=r"strategy\.smallest_cluster=1"):
        deepsight(smallest_cluster=1)
    assert deepsight(smallest_cluster=4).min_clients == 4


def test_equal_updates_are_all_accepted() -> None:
    model = classifier("linear", num_classes=4)
    size = Layout.of(model).num_parameters
    case = round_of(model, 0.1 * normal(5, 1, size).expand(4, size).clone())
    result = deepsight(inputs=4, draws=1).rule(case)
    assert result.weights_N.tolist() == [0.25] * 4
    moved = result.state.parameters - case.reference.parameters
    torch.testing.assert_close(moved, case.updates.row(0), rtol=1e-4, atol=1e-5)


# Consistency scoring


class Straight(nn.Module):
    """Features of two numbers: a linear map of them."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(2, 2, bias=False)

    def features(self, inputs: Tensor) -> Tensor:
        return self.map(inputs)


NUMBERS = Samples(torch.tensor([[0.0, 0], [1, 1]]), torch.zeros(2, dtype=torch.int64))
PLAIN = server_optimizers.none()


def test_consistency_by_hand() -> None:
    # the maps I, 2 I and -I: cosines 1 between the first two, -1 to the third: 1 + 1 - 1, the same,
    # -1 - 1 + 1; with a map of zeros, whose cosines are 0, nothing changes
    maps = torch.tensor([[1.0, 0, 0, 1], [2, 0, 0, 2], [-1, 0, 0, -1], [0, 0, 0, 0]])
    case = round_of(Straight(), maps, NUMBERS)
    assert consistency_scores(case, 9).tolist() == pytest.approx([1, 1, -1, 0])
    both = compose_strategy(fedavg(), consistency(f=1), PLAIN)
    assert both.uses == {"proxy"}
    assert both.min_clients == 3
    result = both.rule(round_of(Straight(), maps[:3], NUMBERS))
    assert result.weights_N.tolist() == [0.5, 0.5, 0]


@few
@given(seeds)
def test_consistency_keeps_the_others_and_their_buffers(seed: int) -> None:
    model = classifier("etf", num_classes=4)
    honest = normal(seed, 1, Layout.of(model).num_parameters)
    matrix = honest + 0.05 * normal(seed + 1, 7, honest.shape[1])
    for row in matrix[5:]:  # their features point the other way
        views(Layout.of(model).parameters, row)["last.weight"].mul_(-5)
    case = round_of(model, matrix)
    case.updates.buffers_NB[5:] = 1e6
    both = compose_strategy(fedavg(), consistency(f=2, inputs=16), PLAIN)
    result = both.rule(case)
    assert result.weights_N.tolist() == pytest.approx([0.2] * 5 + [0] * 2)
    assert result.state.buffers.abs().max() < 1e3
    other, order = shuffled(case, seed)
    again = both.rule(other)
    torch.testing.assert_close(again.weights_N, result.weights_N[order])


def test_consistency_survives_huge_updates_and_says_what_it_lacks() -> None:
    maps = torch.tensor([[1.0, 0, 0, 1], [2, 0, 0, 2], [1e38, 1e38, 1e38, 1e38]])
    scores = consistency_scores(
        round_of(Straight(), 1e15 * maps.sign() * maps.abs().sqrt(), NUMBERS), 9
    )
    assert scores.isfinite().all()
    case = replace(matrix_round(maps), server_data=ServerData(Straight()))
    with pytest.raises(ConfigError, match=r"^server\.proxy_images=0: preaggregation=consistency"):
        consistency_scores(case, 9)
    with pytest.raises(ConfigError, match=r"preaggregation\.f=-1"):
        consistency(f=-1)
