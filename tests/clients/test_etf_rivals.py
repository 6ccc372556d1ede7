"""FedGELA, FedETF and FedLoGe: their formulas by hand, and whole trainings of a small model."""

import math

import pytest
import torch
from fedrobust.clients.fedetf import OwnAnchors, balanced_loss, fedetf
from fedrobust.clients.fedgela import class_lengths, fedgela
from fedrobust.clients.fedloge import ThreeHeads, fedloge, realign
from fedrobust.clients.sgd import sgd
from fedrobust.strategies.fedloge import equal_lengths
from fedrobust.strategies.fedloge import fedloge as fedloge_rule
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.aggregation.round import Round, ServerData
from fedrobust.aggregation.updates import Updates
from fedrobust.errors import ConfigError
from fedrobust.learning.personal import holding, read_named, state_names
from fedrobust.state import Layout, State
from fedrobust.types import Samples, Shard, Task
from fedrobust.utils.seeding import generator
from tests.helpers import federations, models

SHORT = {"optimizer": {"name": "SGD", "lr": 0.05}, "augment": False, "epochs": 1}
CROSS, BALANCED = {"loss": "cross_entropy", **SHORT}, {"loss": "balanced_softmax", **SHORT}


def task(net, data=None, memory=None, personal=None):
    return Task(net, data or models.shard(), 1, {}, memory or {}, generator(0, "t"), personal or {})


def skewed():
    """Three images of class 0 and one of class 1, none of class 2."""
    part = models.samples(12)
    few = part.take(torch.tensor([0, 3, 6, 1]))
    return Shard(few, few, few)


# --- FedGELA


def test_lengths_by_hand():
    # K n_c / n with K = 3, n = 4: 3 * 3/4 = 2.25, 3 * 1/4 = 0.75, 0
    assert class_lengths(torch.tensor([0, 0, 1, 0]), 3).tolist() == [2.25, 0.75, 0.0]
    assert class_lengths(torch.tensor([0, 1, 2]), 3).tolist() == [1.0, 1.0, 1.0]
    assert class_lengths(torch.zeros(0, dtype=torch.int64), 2).tolist() == [1.0, 1.0]


@settings(max_examples=30)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_lengths_have_mean_one_and_agree_with_the_authors_code(labels):
    """`produce_Ew` of FedGELA.py: shares of the classes that occur, times their number K."""
    found = class_lengths(torch.tensor(labels), 5)
    assert found.mean().item() == pytest.approx(1, abs=1e-6)
    theirs = torch.zeros(5)
    for one in set(labels):
        theirs[one] = labels.count(one) / len(labels) * 5
    assert torch.allclose(found, theirs)


def test_equal_shares_are_plain_cross_entropy():
    plain, ours = models.classifier(), models.classifier()
    sgd(**CROSS)(task(plain))
    result = fedgela(**CROSS)(task(ours))
    for name, value in read_named(plain, state_names(plain)).items():
        assert torch.allclose(value, result.personal[name], atol=1e-6)
    assert torch.allclose(result.personal["anchors"], ours.anchors)


def test_the_own_model_has_the_anchors_of_its_classes_and_the_global_one_the_etf():
    net = models.classifier()
    before = net.anchors.clone()
    result = fedgela(**CROSS)(task(net, skewed()))
    assert torch.equal(net.anchors, before)
    expected = before * torch.tensor([2.25, 0.75, 0.0])
    assert torch.allclose(result.personal["anchors"], expected)
    images = models.samples(3).images.float() / 255
    with holding(net, result.personal):
        assert torch.equal(net.eval()(images)[:, 2], torch.zeros(3))


# --- FedETF


def test_the_balanced_loss_by_hand():
    # counts 3, 1, 0 (which counts as 1); beta 2, gamma 1; scores (0.5, 0, -0.5), label 0:
    # -log 3 e^1 / (3 e^1 + e^0 + e^-1) = log(1 + (1 + 0.36788) / 8.15485) = 0.15509
    net = models.classifier()
    scores, label = torch.tensor([[0.5, 0.0, -0.5]]), torch.tensor([0])
    loss = balanced_loss(task(net, skewed()), torch.tensor(2.0), 1.0)(scores, label)
    wanted = math.log(1 + (1 + math.exp(-1)) / (3 * math.e))
    assert loss.item() == pytest.approx(wanted, abs=1e-6)
    # gamma 2: 9 images in the place of 3; gamma 0: plain cross-entropy
    squared = balanced_loss(task(net, skewed()), torch.tensor(2.0), 2.0)(scores, label)
    assert squared.item() == pytest.approx(
        math.log(1 + (1 + math.exp(-1)) / (9 * math.e)), abs=1e-6
    )
    plain = balanced_loss(task(net, skewed()), torch.tensor(2.0), 0.0)(scores, label)
    assert plain.item() == pytest.approx(math.log(1 + math.exp(-1) + math.exp(-2)), abs=1e-6)


def test_the_temperature_is_learnt_and_stays_with_the_client():
    net = models.classifier()
    names = state_names(net)
    result = fedetf(**BALANCED)(task(net))
    assert state_names(net) == names
    assert result.memory["beta"] not in (net.scale, 0.0)
    again = fedetf(**{**BALANCED, "optimizer": {"name": "SGD", "lr": 0.0}})
    kept = again(task(models.classifier(), memory={"beta": 3.5}))
    assert kept.memory["beta"] == 3.5
    assert result.personal == {}


def test_fine_tuning_moves_model_and_anchors_and_lowers_the_loss_of_the_client():
    trainer = fedetf(turns=2, turn_epochs=2, **BALANCED)
    net = models.classifier()
    anchors, start = net.anchors.clone(), read_named(net, state_names(net))
    own = trainer.adapt(task(net))
    assert set(own) == {*start, "anchors"}
    assert not torch.allclose(own["anchors"], anchors)
    assert not torch.equal(own["last.weight"], start["last.weight"])
    data = models.shard().train
    images = data.images.float() / 255

    def loss(values):
        with holding(net, values), torch.no_grad():
            scores = net.eval().probabilities(net(images))
        return -scores.gather(1, data.labels[:, None]).log().mean().item()

    assert loss(own) < loss({**start, "anchors": anchors})


def test_without_turns_the_anchors_keep_their_directions():
    net = models.classifier()
    own = fedetf(turns=0, **BALANCED).adapt(task(net))["anchors"]
    cosines = torch.nn.functional.cosine_similarity(own, net.anchors, dim=0)
    assert torch.allclose(cosines, torch.ones(3), atol=1e-6)


def test_own_anchors_answer_as_the_model_at_first():
    net = models.classifier().eval()
    images = models.samples(5).images.float() / 255
    assert torch.allclose(OwnAnchors(net).eval()(images), net(images), atol=1e-6)


# --- FedLoGe


def test_realignment_by_hand():
    # phi = (3, 4) has length 5; psi = (1, 0): (3, 4) + 5 (1, 0) = (8, 4)
    found = realign(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    assert found.tolist() == [[8.0, 4.0]]
    # lengths 5 and 1, mean 3: (3, 4) * 3/5 = (1.8, 2.4), (0, 1) * 3 = (0, 3); zeros stay
    equal = equal_lengths(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    assert torch.allclose(equal, torch.tensor([[1.8, 2.4], [0.0, 3.0]]))
    assert equal_lengths(torch.zeros(2, 2)).tolist() == [[0.0, 0.0]] * 2


def test_both_classifiers_learn_on_features_that_the_fixed_one_trains():
    net = models.classifier("linear")
    start = read_named(net, state_names(net))
    result = fedloge(**CROSS)(task(net))
    trained = read_named(net, state_names(net))
    assert set(result.personal) == {"last.weight", "last.bias"}
    assert not torch.equal(trained["backbone.conv.weight"], start["backbone.conv.weight"])
    assert not torch.equal(trained["last.weight"], start["last.weight"])
    # both classifiers begin as the last layer and get the same gradients
    assert torch.allclose(result.personal["last.weight"], trained["last.weight"], atol=1e-6)
    again = fedloge(**CROSS)(
        task(
            models.classifier("linear"),
            personal={name: value + 1 for name, value in result.personal.items()},
        )
    )
    assert not torch.allclose(again.personal["last.weight"], trained["last.weight"], atol=0.1)


def test_neither_classifier_moves_the_features():
    net = models.classifier("linear")
    heads = ThreeHeads(net, 0.6, 0.1, {})
    heads(models.samples(6).images.float() / 255)
    heads.shared_and_own_loss(models.samples(6).labels).backward()
    assert net.backbone.conv.weight.grad is None
    assert net.last.weight.grad is not None
    assert heads.own.weight.grad is not None


def test_the_own_model_is_the_sum_of_both_and_without_an_own_one_the_global_model():
    net = models.classifier("linear")
    trainer = fedloge(**CROSS)
    assert trainer.adapt(task(net)) == {}
    own = {"last.weight": torch.ones(3, 8), "last.bias": torch.ones(3)}
    found = trainer.adapt(task(net, personal=own))
    # |(1, ..., 1)| of 8 features is sqrt(8)
    assert torch.allclose(found["last.weight"], 1 + math.sqrt(8) * net.last.weight)
    assert torch.allclose(found["last.bias"], 1 + net.last.bias)


def test_the_rule_is_the_mean_with_equal_lengths_in_the_last_layer():
    layout = Layout((("a", torch.Size([2])), ("last.weight", torch.Size([2, 2]))), ())
    matrix = torch.tensor([[1.0, 1, 3, 4, 0, 1], [3.0, 3, 3, 4, 0, 1]])
    plain = Updates.of(matrix, torch.tensor([1.0, 1.0]))
    updates = Updates(
        plain.matrix_ND, plain.buffers_NB, plain.num_examples_N, plain.clients, layout
    )
    reference = State(torch.zeros(6), torch.zeros(0))
    found = fedloge_rule().rule(
        Round(1, reference, updates, ServerData(None), generator(0, "rule"))
    )
    wanted = torch.tensor([2.0, 2.0, 1.8, 2.4, 0.0, 3.0])
    assert torch.allclose(found.state.parameters, wanted)
    assert found.weights_N.tolist() == [0.5, 0.5]


# --- what all have in common


@pytest.mark.parametrize(
    ("make", "words"),
    [(fedgela, BALANCED), (fedetf, CROSS), (fedloge, BALANCED)],
)
def test_another_loss_is_refused(make, words):
    with pytest.raises(ConfigError, match=r"^client\.loss=.*: client=fed.* set client\.loss="):
        make(**words)


@pytest.mark.parametrize(
    ("name", "head"), [("fedgela", "etf"), ("fedetf", "etf"), ("fedloge", "linear")]
)
def test_another_head_is_refused_before_anything_is_trained(name, head):
    other = "linear" if head == "etf" else "etf"
    words = (f"client={name}", f"model.head={other}")
    with pytest.raises(ConfigError, match=rf"^client={name}: needs model\.head={head}"):
        federations.build_experiment(*words)


@pytest.mark.parametrize(
    ("make", "words", "head"),
    [(fedgela, CROSS, "etf"), (fedetf, BALANCED, "etf"), (fedloge, CROSS, "linear")],
)
def test_another_head_is_refused_in_training_with_its_remedy(make, words, head):
    other = "linear" if head == "etf" else "etf"
    with pytest.raises(ConfigError, match=rf"not {other}; set model\.head={head}$"):
        make(**words)(task(models.classifier(other)))


@pytest.mark.parametrize("make", [fedgela, fedetf, fedloge])
def test_one_image_of_one_class_is_enough(make):
    net = models.classifier("linear" if make is fedloge else "etf")
    one = models.samples(12).take(torch.tensor([1]))
    data = Shard(one, Samples(one.images[:0], one.labels[:0]), one)
    result = make(**(BALANCED if make is fedetf else CROSS))(task(net, data))
    assert all(value.isfinite().all() for value in result.personal.values())
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("make", "key", "value"),
    [
        (fedetf, "gamma", -1),
        (fedetf, "anchor_lr", 0),
        (fedloge, "sparsity", 1),
        (fedloge, "length", 0),
    ],
)
def test_wrong_settings(make, key, value):
    with pytest.raises(ConfigError, match=rf"client\.{key}={value}"):
        make(**{key: value}, **(BALANCED if make is fedetf else CROSS))
