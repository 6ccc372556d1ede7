import pytest
import torch
from fedrobust.clients.global_distillation import (
    accuracy,
    accuracy_dropped,
    global_distillation,
    global_peer_loss,
    warmup_factor,
)
from fedrobust.clients.sgd import sgd
from hypothesis import given
from hypothesis import strategies as st

from fedrobust.errors import ConfigError
from fedrobust.learning import batchnorm, losses
from fedrobust.state import Layout, read
from tests.helpers import models


def trained(trainer, **keywords):
    net = models.classifier()
    result = trainer(models.task(net, models.shard(), **keywords))
    return read(net, Layout.of(net)).parameters, result


def test_warm_up_by_hand():
    # five rounds from 0 to 1: round 1 -> 0, 2 -> .2, ..., 6 -> 1, and there it stays
    assert [warmup_factor(round, 5) for round in (1, 2, 4, 6, 9)] == pytest.approx(
        [0.0, 0.2, 0.6, 1.0, 1.0]
    )
    assert warmup_factor(1, 0) == 1.0


@given(round=st.integers(1, 99), warmup=st.integers(0, 20))
def test_warm_up_never_falls_and_stays_a_share(round, warmup):
    assert 0 <= warmup_factor(round, warmup) <= warmup_factor(round + 1, warmup) <= 1


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (80.0, 74.9, True),
        (80.0, 75.0, False),
        (80.0, 90.0, False),
        (None, 10.0, False),
        (80.0, None, False),
    ],
)
def test_only_a_drop_of_more_than_five_points_counts(before, now, expected):
    assert (
        accuracy_dropped({} if before is None else {"global_accuracy": before}, now, 5.0)
        is expected
    )


def test_the_first_round_is_plain_training_bit_by_bit():
    mine, result = trained(global_distillation(), round=1)
    assert torch.equal(mine, trained(sgd())[0])
    assert result.extras == {"mutual_weight": 0.0}
    assert "extra_loss" not in result.sums


def test_later_rounds_learn_from_the_peer_too():
    mine, result = trained(global_distillation(), round=6)
    assert result.extras == {"mutual_weight": 1.0}
    assert result.sums["extra_loss"] > 0
    assert not torch.equal(mine, trained(sgd())[0])
    assert 0 <= result.memory["global_accuracy"] <= 100


def test_a_spoilt_global_model_gets_no_say():
    _, result = trained(global_distillation(), round=6, memory={"global_accuracy": 100.0})
    assert result.memory["global_accuracy"] < 95  # an untrained model
    assert result.extras == {"mutual_weight": 0.0}
    _, patient = trained(
        global_distillation(max_drop=100.0), round=6, memory={"global_accuracy": 100.0}
    )
    assert patient.extras == {"mutual_weight": 1.0}


@pytest.mark.parametrize("distillation_loss", ["kl", "true_class"])
def test_the_term_by_its_definition(distillation_loss):
    # student = twice the peer's first layer; peer in eval mode, frozen, unchanged by the student's
    # training
    model = models.classifier().train()
    extra = global_peer_loss(model, distillation_loss, 0.5, 2.0)
    frozen = models.classifier().eval()
    with torch.no_grad():
        model.last.weight.add_(0.3)
    images, labels = models.samples(6).images / 255, models.samples(6).labels
    scores = model(images)
    taught = frozen(images).detach()
    if distillation_loss == "kl":
        expected = 0.5 * losses.mutual_kl(scores, torch.softmax(16 * taught / 2, 1), 16.0, 2.0)
    else:
        expected = 0.5 * losses.inner_product_gap(scores, taught, labels)
    assert torch.allclose(extra(images, scores, labels), expected)
    assert expected > 0


def test_the_stronger_the_pull_the_nearer_to_the_peer():
    moved, images = [], models.samples(12).images / 255
    for weight in (0.0, 0.3, 3.0):
        net = models.classifier()
        # an untrained model's statistics are not those of any data
        batchnorm.recalibrate(net, models.samples(48).images)
        before = net.eval()(images).detach()
        trainer = global_distillation(
            weight=weight, warmup=0, epochs=10, augment=False, optimizer={"name": "SGD", "lr": 0.02}
        )
        trainer(models.task(net, models.shard()))
        moved.append((net.eval()(images) - before).norm().item())
    assert moved[0] > moved[1] > moved[2]


def test_accuracy_in_percent():
    # 3 of the 12 images get another label than the model's own answer: 75 %
    net, data = models.classifier(), models.samples(12)
    answers = net.eval()(data.images / 255).argmax(1)
    wrong = torch.where(torch.arange(12) < 3, (answers + 1) % 3, answers)
    assert accuracy(net, type(data)(data.images, wrong)) == 75.0
    assert accuracy(net, type(data)(data.images[:0], wrong[:0])) is None


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"weight": -1}, r"client\.weight=-1"),
        ({"warmup": 1.5}, r"client\.warmup=1\.5"),
        ({"temperature": 0}, r"client\.temperature=0"),
        ({"max_drop": "x"}, r"client\.max_drop=x"),
        ({"distillation_loss": "full"}, r"client\.distillation_loss=full"),
    ],
)
def test_wrong_settings(settings, match):
    with pytest.raises(ConfigError, match=match):
        global_distillation(**settings)
