"""Models that are trained together: what they learn from each other, where the peers come from,
what is refused."""

import math

import pytest
import torch
from fedrobust.clients.app import app
from fedrobust.clients.mutual_learning import mutual_learning, peer_loss
from flwr.app import Context, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.errors import ConfigError
from fedrobust.learning import etf
from fedrobust.learning.classifier import timm_model
from fedrobust.learning.peers import make_peers
from fedrobust.runtime.messages import records
from fedrobust.state import Layout, read
from fedrobust.utils.seeding import generator
from tests.helpers import federations, models

FACTORY = timm_model("resnet18", dimension=6, options=models.NARROW)


def trained(seed=0, **given):
    net = models.resnet()
    trainer = mutual_learning(model=FACTORY, **{"steps": 2, "batch_size": 8, **given})
    return (
        read(net, Layout.of(net)).parameters.clone(),
        trainer(models.task(net, models.shard(size=32), seed=seed)),
        net,
    )


def test_true_class_by_hand():
    # own score of the true class .5, peers' .1 and .9: 1/2 (.4^2 + .4^2) / 2 = .08 for one image;
    # with weight 3: .24
    own, low, high = (torch.tensor([[value, -0.2, 0.7]]) for value in (0.5, 0.1, 0.9))
    loss = peer_loss(16.0, "true_class", 3.0, 2.0)
    assert loss(own, [low, high], torch.tensor([0])).item() == pytest.approx(0.24)
    assert loss(own, [low], torch.tensor([1])).item() == 0  # the same score of the true class


def test_kl_by_hand():
    # scale 2, T 2: softmax of the scores themselves. Peer (log 3, 0) -> (3/4, 1/4), own (0, 0) ->
    # (1/2, 1/2): KL = 3/4 log(3/2) + 1/4 log(1/2), times T^2 = 4; a second peer that agrees halves
    # it
    own, peer = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    loss = peer_loss(2.0, "kl", 1.0, 2.0)
    assert loss(own, [peer], torch.tensor([0])).item() == pytest.approx(expected, rel=1e-5)
    assert loss(own, [peer, own], torch.tensor([0])).item() == pytest.approx(expected / 2, rel=1e-5)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from(["kl", "true_class"]), st.floats(0, 10))
def test_nothing_is_learnt_from_those_who_agree_and_never_less_than_nothing(
    seed, distillation_loss, weight
):
    g = generator(seed, "scores")
    own, other = 2 * torch.rand(5, 4, generator=g) - 1, 2 * torch.rand(5, 4, generator=g) - 1
    labels = torch.randint(4, (5,), generator=g)
    loss = peer_loss(16.0, distillation_loss, weight, 2.0)
    assert loss(own, [own, own], labels).item() == pytest.approx(0, abs=1e-4 * max(weight, 1))
    assert loss(own, [other], labels).item() >= -1e-5 * max(weight, 1)


@pytest.mark.parametrize("distillation_loss", ["kl", "true_class"])
def test_the_same_generator_gives_the_same_bits_and_the_peers_matter(distillation_loss):
    (before, result, one), (_, _, two), (_, _, other), (_, _, alone) = (
        trained(distillation_loss=distillation_loss),
        trained(distillation_loss=distillation_loss),
        trained(1, distillation_loss=distillation_loss),
        trained(distillation_loss=distillation_loss, weight=0.0),
    )
    states = [read(net, Layout.of(net)).parameters for net in (one, two, other, alone)]
    assert not torch.equal(states[0], before)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert not torch.equal(states[0], states[3])
    assert result.sums["extra_loss"] > 0
    assert result.num_examples == 48


def test_peers_have_the_anchors_and_other_weights():
    task = models.task(models.resnet(), models.shard(size=32))
    found = make_peers(task, FACTORY, 2)
    assert {etf.digest(one.anchors) for one in found} == {etf.digest(task.model.anchors)}
    weights = [one.last.weight for one in (task.model, *found)]
    assert not any(
        torch.equal(weights[one], weights[other]) for one, other in ((0, 1), (0, 2), (1, 2))
    )


def test_a_linear_head_has_peers_too():
    net = models.resnet("linear")
    factory = timm_model("resnet18", head="linear", options=models.NARROW)
    result = mutual_learning(model=factory, loss="cross_entropy", steps=1)(
        models.task(net, models.shard(size=32))
    )
    assert math.isfinite(result.sums["loss"])


def test_epochs_are_reported_with_early_stopping():
    _, result, _ = trained(steps=None, epochs=3, early_stopping=9)
    assert result.sums["epochs"] == 3 * 48  # per image: three passes
    assert "epochs" not in trained()[1].sums


def test_in_a_federation():
    server = federations.build_server(*federations.MEAN, "client=mutual_learning", "client.size=3")
    records.set_identity()
    order = {
        "experiment": server.experiment.text,
        "round": 1,
        "etf": server.etf_bytes,
        "etf-sha256": server.etf_sha256,
    }
    message = Message(
        records.train_message(records.state_record(read(server.model, server.layout)), order),
        0,
        "train",
    )
    node = {"partition-id": 0, "num-partitions": 3, "simulation": True}
    reply = records.read_train_reply(
        app(message, Context(1, 0, node, RecordDict(), {})).content, _sizes(server)
    )
    assert set(reply.metrics) >= {"loss", "correct", "extra_loss"}


def _sizes(server):
    return server.layout.num_parameters, server.layout.num_buffers


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"size": 1}, r"client\.size=1: must be at least 2"),
        ({"size": 2.5}, r"client\.size=2\.5: must be a whole number"),
        ({"weight": -1}, r"client\.weight=-1"),
        ({"temperature": 0}, r"client\.temperature=0"),
        (
            {"distillation_loss": "half"},
            r"client\.distillation_loss=half: must be one of kl, true_class",
        ),
        ({"model": "resnet18"}, r"client\.model=resnet18: is that of the experiment"),
        ({"epochs": 0}, r"client\.epochs=0"),
    ],
)
def test_wrong_settings_are_refused(given, match):
    with pytest.raises(ConfigError, match=match):
        mutual_learning(**given)
