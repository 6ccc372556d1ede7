"""FedCorr at the hospital: dimensions, who is relabelled when and how, what is remembered."""

import math
from dataclasses import replace

import pytest
import torch
from fedrobust.clients.fedcorr import fedcorr, largest, nearness, relabel
from fedrobust.clients.sgd import sgd
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.learning.inference import predict
from fedrobust.learning.noisy_labels import image_losses, local_dimensions
from fedrobust.state import Layout, read
from fedrobust.types import Samples
from fedrobust.utils.seeding import generator
from tests.helpers import models

FAST = {"name": "Adam", "lr": 0.02}


def skilled():
    """A model that knows the classes."""
    net = models.classifier()
    sgd(epochs=15, optimizer=FAST)(models.task(net, models.shard()))
    return net


def mislabelled(share=4):
    """Every `share`-th training label is wrong."""
    data = models.shard()
    wrong = torch.arange(48) % share == 0
    labels = torch.where(wrong, (data.train.labels + 1) % 3, data.train.labels)
    return replace(data, train=Samples(data.train.images, labels)), wrong


def test_dimensions_by_hand():
    # points 0, 1, 3, 7 on a line, two neighbours: of 0 at 1 and 3: -2 / log(1/3); of 3 at 2 and 3:
    # -2 / log(2/3); of 7 at 4 and 6: -2 / log(4/6); of 1 at 1 and 2: -2 / log(1/2)
    found = local_dimensions(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), 2)
    expected = [-2 / math.log(part) for part in (1 / 3, 1 / 2, 2 / 3, 4 / 6)]
    assert found.tolist() == pytest.approx(expected)


def test_dimensions_where_there_are_none():
    assert local_dimensions(torch.zeros(0, 3)).shape == (0,)
    assert local_dimensions(torch.ones(1, 3)).tolist() == [0.0]
    assert local_dimensions(torch.tensor([[0.0], [1.0]])).tolist() == [0.0, 0.0]
    assert local_dimensions(torch.ones(5, 3)).tolist() == [0.0] * 5


@settings(max_examples=20)
@given(st.integers(2, 40), st.floats(0.1, 10), st.integers(0, 99))
def test_dimensions_do_not_depend_on_the_scale_or_the_order(count, scale, seed):
    g = generator(seed, "points")
    points = torch.randn(count, 4, generator=g, dtype=torch.float64)
    order = torch.randperm(count, generator=g)
    found = local_dimensions(points, 5)
    assert (found >= 0).all()
    assert torch.allclose(local_dimensions(scale * points[order], 5), found[order], rtol=1e-6)


def test_the_largest_by_hand():
    assert largest(torch.tensor([1.0, 3.0, 3.0, 2.0]), 1).tolist() == [False, True, False, False]
    assert not largest(torch.tensor([1.0]), 0).any()


def test_in_the_first_round_it_trains_as_usual_and_reports():
    data = models.shard()
    states, net = [], models.classifier()
    for trainer in (fedcorr(optimizer=FAST), sgd(optimizer=FAST)):
        net = models.classifier()
        result = trainer(models.task(net, data))
        states.append(read(net, Layout.of(net)).parameters)
        if len(states) == 1:
            lid = float(local_dimensions(predict(net, data.train.images)).mean())
            assert result.extras == {"level": 0.0, "lid": pytest.approx(lid)}
            assert torch.equal(result.memory["losses"], image_losses(net, data.train))
            assert torch.equal(result.memory["labels"], data.train.labels)
            assert not result.labels.suspected_N.any()
    assert torch.equal(*states)


def test_a_noisy_hospital_relabels_large_losses_where_the_global_model_is_sure():
    data, wrong = mislabelled()
    net = skilled()
    memory = {"labels": data.train.labels, "losses": image_losses(net, data.train)}
    task = models.task(net, data, extras={"stage": 1, "relabel": 1}, memory=memory)
    found = relabel(task, 0.5, 1.0)
    assert found.level == 0.25
    changed = found.labels_N != data.train.labels
    assert torch.equal(changed, wrong)
    assert torch.equal(found.labels_N[wrong], models.shard().train.labels[wrong])
    # half of them, and none of which the model is not sure enough
    half = relabel(task, 0.5, 0.5).labels_N != data.train.labels
    assert half.sum() == 6
    assert not (half & ~wrong).any()
    assert torch.equal(relabel(task, 1.0, 1.0).labels_N, data.train.labels)


def test_all_images_are_relabelled_once_and_stay_so():
    data, wrong = mislabelled()
    trainer = fedcorr(optimizer={"name": "SGD", "lr": 0.0})
    last = {"stage": 3, "relabel": 2}
    first = trainer(models.task(skilled(), data, extras=last))
    assert torch.equal(first.labels.suspected_N, wrong)
    assert torch.equal(first.labels.labels_N, models.shard().train.labels)
    assert first.extras == {"level": 0.0}
    # an untrained model, which would say other things, is not asked again
    again = trainer(models.task(models.classifier(), data, extras=last, memory=first.memory))
    assert torch.equal(again.labels.labels_N, first.labels.labels_N)


def test_the_proximal_term_is_that_of_the_share_of_wrong_labels():
    data, _ = mislabelled()
    distances = []
    for beta in (0.0, 500.0):
        net = skilled()
        start = read(net, Layout.of(net)).parameters
        memory = {"labels": data.train.labels, "losses": image_losses(net, data.train)}
        task = models.task(net, data, extras={"stage": 1, "relabel": 1}, memory=memory)
        result = fedcorr(beta=beta, optimizer={"name": "SGD", "lr": 0.001})(task)
        assert result.extras["level"] == 0.25
        distances.append((read(net, Layout.of(net)).parameters - start).norm())
    assert distances[1] < distances[0]


def test_nearness_by_hand():
    # 4/2 * (1^2 * number of weights), all moved by 1
    net = models.classifier()
    term = nearness(net, 4.0)
    count = sum(one.numel() for one in net.parameters())
    with torch.no_grad():
        for one in net.parameters():
            one.add_(1)
    assert term(None, None, None).item() == pytest.approx(2 * count, rel=1e-5)


@pytest.mark.parametrize(
    ("extras", "line"),
    [
        ({"stage": 4, "relabel": 0}, r"^extras\.stage=4: must be one of 1, 2, 3$"),
        ({"stage": 1, "relabel": 7}, r"^extras\.relabel=7: must be one of 0, 1, 2$"),
        ({"stage": 1.5, "relabel": 0}, r"^extras\.stage=1\.5: must be"),
        ({"relabel": 1}, r"^extras\.stage: is missing in the server's message$"),
        ({"stage": 1}, r"^extras\.relabel: is missing in the server's message$"),
    ],
)
def test_what_the_server_says_is_checked(extras, line):
    with pytest.raises(ValueError, match=line):
        fedcorr()(models.task(models.classifier(), models.shard(), extras=extras))


def test_a_memory_of_other_images_is_not_used():
    data, _ = mislabelled()
    memory = {"labels": torch.zeros(3, dtype=torch.int64), "losses": torch.ones(3)}
    task = models.task(models.classifier(), data, extras={"relabel": 1}, memory=memory)
    assert torch.equal(relabel(task, 0.5, 0.5).labels_N, data.train.labels)
