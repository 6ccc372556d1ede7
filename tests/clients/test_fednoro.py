"""FedNoRo at the hospital: what it reports, what it learns from whom."""

import math
from dataclasses import replace

import pytest
import torch
from fedrobust.clients.fednoro import fednoro, received_peer_loss
from fedrobust.clients.sgd import sgd

from fedrobust.learning.noisy_labels import class_losses, image_losses
from fedrobust.state import Layout, read
from fedrobust.types import Samples
from tests.helpers import models

STEP = {"name": "SGD", "lr": 0.05}
NOISY = {"noisy": 1, "weight": 0.6}


def trained(trainer, extras=None):
    net = models.classifier()
    result = trainer(models.task(net, models.shard(), extras=extras))
    return read(net, Layout.of(net)).parameters, result


def test_losses_of_classes_by_hand():
    losses, labels = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2])
    assert class_losses(losses, labels, 4).tolist() == [2.0, -1.0, 5.0, -1.0]


@pytest.mark.parametrize("head", ["etf", "linear"])
def test_losses_of_images_are_those_of_the_probabilities(head):
    net, data = models.classifier(head), models.samples(7)
    scores = net.eval()(data.images.float() / 255)
    right = net.probabilities(scores).gather(1, data.labels[:, None])[:, 0]
    assert torch.allclose(image_losses(net, data), -right.log(), atol=1e-5)
    nothing = data.take(torch.zeros(0, dtype=torch.int64))
    assert len(image_losses(net, nothing)) == 0


def test_in_the_warm_up_it_trains_as_usual_and_reports_the_received_model_s_losses():
    state, result = trained(fednoro(optimizer=STEP))
    assert torch.equal(state, trained(sgd(optimizer=STEP))[0])
    net, data = models.classifier(), models.shard().train
    expected = class_losses(image_losses(net, data), data.labels, 3)
    assert torch.equal(result.extras["class_losses"], expected)


@pytest.mark.parametrize("extras", [{"noisy": 0, "weight": 0.6}, {"noisy": 1, "weight": 0.0}])
def test_a_hospital_that_is_not_noisy_trains_as_usual_and_reports_nothing_more(extras):
    state, result = trained(fednoro(optimizer=STEP), extras)
    assert torch.equal(state, trained(sgd(optimizer=STEP))[0])
    assert result.extras == {}


def test_a_noisy_hospital_learns_less_from_its_labels():
    state, result = trained(fednoro(optimizer=STEP), NOISY)
    plain, usual = trained(sgd(optimizer=STEP))
    assert not torch.equal(state, plain)
    assert result.sums["loss"] < usual.sums["loss"]
    assert result.sums["extra_loss"] >= 0


@pytest.mark.parametrize(
    ("extras", "line"),
    [
        ({"noisy": 1, "weight": 1.5}, r"^extras\.weight=1\.5: must be at most 1$"),
        ({"noisy": 1, "weight": -0.1}, r"^extras\.weight=-0\.1: must be at least 0$"),
        ({"noisy": 2, "weight": 0.5}, r"^extras\.noisy=2: must be one of 0, 1$"),
        ({"noisy": 1}, r"^extras\.weight: is missing in the server's message$"),
        ({"weight": 0.5}, r"^extras\.noisy: is missing in the server's message$"),
    ],
)
def test_what_the_server_says_is_checked(extras, line):
    with pytest.raises(ValueError, match=line):
        trained(fednoro(), extras)


def test_where_the_global_model_has_all_the_weight_labels_do_not_matter():
    states = []
    for shift in (0, 1):
        net, data = models.classifier(), models.shard()
        train = Samples(data.train.images, (data.train.labels + shift) % 3)
        task = models.task(net, replace(data, train=train), extras={"noisy": 1, "weight": 1.0})
        fednoro(optimizer=STEP)(task)
        states.append(read(net, Layout.of(net)).parameters)
    assert torch.equal(*states)


def test_the_loss_towards_the_received_model_by_hand():
    # linear head; teacher's scores (log 3, 0, 0) at T = 1: (3/5, 1/5, 1/5); own scores (0, 0, 0)
    # and counts 16 each: uniform; KL = 3/5 log(9/5) + 2/5 log(3/5), times the weight 2
    net = models.classifier("linear")
    with torch.no_grad():
        net.last.weight.zero_()
        net.last.bias.copy_(torch.tensor([math.log(3.0), 0.0, 0.0]))
    loss = received_peer_loss(models.task(net, models.shard()), 2.0, 1.0)
    images = torch.rand(1, 3, 8, 8)
    expected = 2 * (0.6 * math.log(1.8) + 0.4 * math.log(0.6))
    assert loss(images, torch.zeros(1, 3), torch.tensor([0])).item() == pytest.approx(
        expected, rel=1e-5
    )
    # the received model stays what it was while the own one moves
    with torch.no_grad():
        net.last.bias.zero_()
    assert loss(images, torch.zeros(1, 3), torch.tensor([0])).item() == pytest.approx(
        expected, rel=1e-5
    )
