import pytest
import torch
from fedrobust.clients.sgd import sgd, task_loss

from fedrobust.errors import ConfigError
from fedrobust.learning import etf
from fedrobust.learning.inference import predict
from fedrobust.learning.losses import (
    ROBUST,
    balanced_softmax,
    dot_regression,
    forward_correction,
    rect_lengths,
)
from fedrobust.learning.noisy_labels import estimate_confusion
from fedrobust.learning.settings import TrainingSettings
from fedrobust.state import Layout, read
from fedrobust.types import Samples, Shard
from fedrobust.utils.seeding import generator
from tests.helpers import models

FAST = {"name": "Adam", "lr": 0.02}


def uneven():
    data = models.shard(train=30)
    keep = torch.cat([(data.train.labels == k).nonzero()[:n, 0] for k, n in enumerate((10, 5, 1))])
    return Shard(data.train.take(keep), data.validation, data.test)


def test_it_learns_and_reports_means_times_images():
    net, data = models.classifier(), models.shard()
    before = etf.digest(net.anchors)
    result = sgd(epochs=15, optimizer=FAST)(models.task(net, data))
    assert (predict(net, data.test.images).argmax(1) == data.test.labels).double().mean() > 0.9
    assert result.num_examples == 48
    assert 0 <= result.sums["correct"] <= 48
    # DR of a unit vector is at most 1/2 * 2^2, Rect's weight at most 10
    assert 0 <= result.sums["loss"] / 48 <= 2 * 10
    assert (result.extras, result.memory) == ({}, {})
    assert etf.digest(net.anchors) == before


def test_equal_tasks_give_equal_bits():
    states = []
    for _ in range(2):
        net = models.resnet()
        sgd(epochs=2)(models.task(net, models.shard(size=32, train=12)))
        states.append(read(net, Layout.of(net)))
    assert torch.equal(states[0].parameters, states[1].parameters)
    assert torch.equal(states[0].buffers, states[1].buffers)


@pytest.mark.parametrize("scope", ["batch", "client"])
def test_rect_counts_by_scope(scope):
    # the client has 10, 5, 1 images; a batch of two of class 0 and one of class 2
    labels = torch.tensor([0, 0, 2])
    scores = torch.rand(3, 3, generator=generator(0, "scores"))
    counts = {"batch": None, "client": torch.tensor([10.0, 5.0, 1.0])}[scope]
    task = models.task(models.classifier(), uneven())
    loss = task_loss(task, TrainingSettings(rect_scope=scope))(scores, labels)
    assert torch.equal(
        loss, dot_regression(scores, labels, rect_lengths(labels, 3, counts_K=counts))
    )


def test_balanced_softmax_knows_the_client_s_counts_and_the_scale():
    scores, labels = torch.rand(3, 3, generator=generator(0, "scores")), torch.tensor([0, 0, 2])
    loss = task_loss(
        models.task(models.classifier(), uneven()), TrainingSettings(loss="balanced_softmax")
    )(scores, labels)
    assert torch.equal(loss, balanced_softmax(scores, labels, torch.tensor([10.0, 5.0, 1.0]), 16.0))


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ConfigError, match=r"client\.loss=dot_regression: needs model\.head=etf"):
        sgd()(models.task(models.classifier("linear"), models.shard()))
    with pytest.raises(
        ConfigError, match=r"client\.rect_scope=global: must be one of batch, client"
    ):
        sgd(rect_scope="global")
    with pytest.raises(ConfigError, match=r"client\.epochs=0"):
        sgd(epochs=0)


def test_a_linear_head_learns_with_cross_entropy():
    net, data = models.classifier("linear"), models.shard()
    sgd(loss="cross_entropy", epochs=15, optimizer=FAST)(models.task(net, data))
    assert (predict(net, data.test.images).argmax(1) == data.test.labels).double().mean() > 0.9


def test_the_learning_rate_schedule_lives_in_the_memory():
    # nothing counts as better
    trainer = sgd(
        lr_plateau={"patience": 0, "threshold": 1e9, "threshold_mode": "abs"}, optimizer=FAST
    )
    net, data = models.classifier(), models.shard()
    first = trainer(models.task(net, data))
    second = trainer(models.task(net, data, memory=first.memory))
    # the first loss beats the infinity it starts with, the second one, a round later, does not: .02
    # -> .002
    assert (first.memory["rates"], second.memory["rates"]) == (
        pytest.approx([0.02]),
        pytest.approx([0.002]),
    )


@pytest.mark.parametrize("count", [1, 2, 33])
def test_any_number_of_images(count):
    samples = models.samples(count, size=32)
    result = sgd()(
        models.task(
            models.resnet(),
            Shard(samples, Samples(samples.images[:0], samples.labels[:0]), samples),
        )
    )
    assert result.num_examples == count


@pytest.mark.parametrize("head", ["etf", "linear"])
@pytest.mark.parametrize("loss", ROBUST)
def test_a_robust_loss_learns_with_either_head(head, loss):
    net, data = models.classifier(head), models.shard()
    result = sgd(loss=loss, epochs=15, optimizer=FAST)(models.task(net, data))
    assert (predict(net, data.test.images).argmax(1) == data.test.labels).double().mean() > 0.9
    assert set(result.memory) == ({"confusion"} if loss == "forward_correction" else set())


def test_a_confusion_is_estimated_in_the_first_rounds_and_used_afterwards():
    trainer = sgd(loss="forward_correction", robust_loss={"warmup": 1}, optimizer=FAST)
    net, data = models.classifier(), models.shard()
    first = trainer(models.task(net, data))
    expected = estimate_confusion(predict(net, data.train.images))
    assert torch.equal(torch.tensor(first.memory["confusion"], dtype=torch.float64), expected)
    task = models.task(net, data, round=2, memory=first.memory)
    scores, labels = torch.rand(3, 3, generator=generator(0, "scores")), torch.tensor([0, 1, 2])
    used = task_loss(task, TrainingSettings(loss="forward_correction", robust_loss={"warmup": 1}))
    assert torch.allclose(
        used(scores, labels), forward_correction(scores, labels, expected.float(), 16.0)
    )
    assert trainer(task).memory == first.memory


def test_a_hospital_that_is_first_asked_later_estimates_its_confusion_then():
    trainer = sgd(loss="forward_correction", robust_loss={"warmup": 1}, optimizer=FAST)
    net, data = models.classifier(), models.shard()
    result = trainer(models.task(net, data, round=5))
    expected = estimate_confusion(predict(net, data.train.images))
    assert torch.equal(torch.tensor(result.memory["confusion"], dtype=torch.float64), expected)


def test_a_confusion_of_other_classes_is_refused():
    trainer = sgd(loss="forward_correction", robust_loss={"confusion": [[1.0, 0.0], [0.0, 1.0]]})
    with pytest.raises(ConfigError, match=r"robust_loss\.confusion=.*must be 3 rows of 3"):
        trainer(models.task(models.classifier(), models.shard()))
