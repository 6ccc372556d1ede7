"""Two models that choose images for each other: which, how many, what stays at the client."""

import pytest
import torch
from fedrobust.clients.co_teaching import co_teaching, exchange, kept_share
from fedrobust.clients.sgd import sgd
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.errors import ConfigError
from fedrobust.learning.classifier import timm_model
from fedrobust.learning.settings import TrainingSettings
from fedrobust.learning.training import fit_on_chosen
from fedrobust.state import Layout, read
from fedrobust.types import Samples, Shard
from fedrobust.utils.seeding import generator
from tests.helpers import models

FACTORY = timm_model("resnet18", dimension=6, options=models.NARROW)


class SecondNet:
    """A factory whose models are the small classifiers of the helpers."""

    @staticmethod
    def build(num_classes, anchors, g):
        net = models.classifier(seed=int(torch.randint(99, (1,), generator=g)))
        net.anchors = anchors
        return net


def test_the_share_falls_by_the_papers_schedule():
    # tau .4 over 4 rounds: 1 - .4 * t / 4 = .9, .8, .7, .6, then constant
    assert [kept_share(t, 0.4, 4) for t in (1, 2, 3, 4, 9)] == pytest.approx(
        [0.9, 0.8, 0.7, 0.6, 0.6]
    )
    assert kept_share(9, 0.0, 1) == 1


def test_each_model_learns_from_the_others_small_losses():
    # label 0 of all; scores of class 0: first model 3 0 2 1, second 0 3 1 2; half of four images:
    # the first is surest of places 0 and 2, the second of 1 and 3, and each gets the other's
    first = torch.tensor([[3.0, 0.0], [0.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    second = torch.tensor([[0.0, 0.0], [3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    kept = torch.ones(6, dtype=torch.bool)
    labels, index = torch.zeros(4, dtype=torch.int64), torch.tensor([5, 4, 3, 2])
    for_first, for_second = exchange(0.5, 1.0, kept)([first, second], labels, index)
    assert (for_first.tolist(), for_second.tolist()) == ([1, 3], [0, 2])
    # rows 4 and 2 of the training images were used for the first model, 5 and 3 were not
    assert kept.tolist() == [True, True, True, False, True, False]


@settings(max_examples=30)
@given(st.integers(1, 40), st.floats(0.01, 1), st.integers(0, 99))
def test_so_many_and_no_others(count, share, seed):
    g = generator(seed, "scores")
    scores = [torch.randn(count, 3, generator=g) for _ in range(2)]
    labels = torch.randint(0, 3, (count,), generator=g)
    kept = torch.zeros(count, dtype=torch.bool)
    chosen = exchange(share, 16.0, kept)(scores, labels, torch.arange(count))
    for rows in chosen:
        assert len(rows) == len(rows.unique()) == max(1, int(share * count + 1e-9))
    assert kept.sum() == len(chosen[0])


def trained(data, *, round=1, memory=None, **given):
    net = models.classifier()
    trainer = co_teaching(model=SecondNet, optimizer={"name": "Adam", "lr": 0.02}, **given)
    result = trainer(models.task(net, data, round=round, memory=memory))
    return net, result


def test_nothing_forgotten_is_plain_training():
    data, net = models.shard(), models.classifier()
    # the second model is drawn first
    task = models.task(net, data)
    torch.randint(2**62, (1,), generator=task.generator)
    sgd(optimizer={"name": "Adam", "lr": 0.02})(task)
    other, result = trained(data, forget_rate=0.0)
    states = [read(one, Layout.of(one)).parameters for one in (net, other)]
    assert torch.equal(*states)
    assert not result.labels.suspected_N.any()


def test_wrong_labels_are_suspected_and_the_second_model_is_remembered():
    data = models.shard(train=60)
    wrong = torch.arange(60) % 5 == 0  # 20 %
    labels = torch.where(wrong, (data.train.labels + 1) % 3, data.train.labels)
    noisy = Shard(Samples(data.train.images, labels), data.validation, data.test)
    net, result = trained(noisy, forget_rounds=1, epochs=12)
    suspected = result.labels.suspected_N
    assert (suspected & wrong).sum() / wrong.sum() > 0.8
    assert torch.equal(result.labels.labels_N, labels)
    peer = result.memory["peer"]
    assert peer.shape == read(net, Layout.of(net)).parameters.shape
    # without a step the second model stays what it was
    idle = {"name": "SGD", "lr": 0.0}
    again = co_teaching(model=SecondNet, optimizer=idle)(
        models.task(models.classifier(), noisy, round=2, memory=result.memory)
    )
    assert torch.equal(again.memory["peer"], peer)


def test_models_of_timm():
    net = models.resnet()
    trainer = co_teaching(model=FACTORY, steps=1, batch_size=8)
    first = trainer(models.task(net, models.shard(size=32, train=8)))
    assert set(first.memory) == {"peer", "peer_buffers"}
    assert first.labels.suspected_N.tolist().count(True) == 1  # int(.96 * 8) = 7 of 8 stay


def test_images_that_were_not_seen_are_not_suspected():
    net, data = models.classifier(), models.shard(train=24)
    trainer = co_teaching(model=SecondNet, forget_rate=0.25, forget_rounds=1, steps=1, batch_size=8)
    result = trainer(models.task(net, data))
    assert result.labels.suspected_N.sum() == 2  # of the 8 that were seen


def test_one_image():
    data = models.shard(train=1)
    _, result = trained(data, forget_rate=0.9, forget_rounds=1)
    assert result.labels.suspected_N.tolist() == [False]


def test_members_that_choose_nothing_do_not_move():
    net, data = models.classifier(), models.shard(train=8)
    nothing = torch.zeros(0, dtype=torch.int64)
    before = read(net, Layout.of(net)).parameters
    settings = TrainingSettings(optimizer={"name": "SGD", "lr": 0.1})
    fit_on_chosen(
        [net],
        data,
        lambda scores, labels: scores.sum() / max(len(labels), 1),
        settings,
        generator(0, "train"),
        choose=lambda scores, labels, index: [nothing],
    )
    assert torch.equal(read(net, Layout.of(net)).parameters, before)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"forget_rate": 1.0}, r"client\.forget_rate=1\.0: must be less than 1"),
        ({"forget_rounds": 0}, r"client\.forget_rounds=0"),
        ({"model": "resnet18"}, r"client\.model=resnet18: is that of the experiment"),
    ],
)
def test_wrong_settings_are_refused(given, match):
    with pytest.raises(ConfigError, match=match):
        co_teaching(**given)
