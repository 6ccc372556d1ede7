"""Trainers whose clients keep some layers: FedPer, FedRep and FedBN."""

import pytest
import torch
from fedrobust.clients.fedbn import fedbn
from fedrobust.clients.fedper import fedper
from fedrobust.clients.fedrep import fedrep
from fedrobust.clients.sgd import sgd

from fedrobust.errors import ConfigError
from fedrobust.learning.personal import batchnorm_names, head_names, read_named, state_names
from fedrobust.types import Task
from tests.helpers import federations, models

ONE = {"optimizer": {"name": "SGD", "lr": 0.05}, "augment": False, "epochs": 1}
KEPT = {"fedper": head_names, "fedrep": head_names, "fedbn": batchnorm_names}
TRAINERS = {"fedper": fedper(**ONE), "fedrep": fedrep(2, **ONE), "fedbn": fedbn(**ONE)}


def trained(trainer, personal=None):
    net = models.classifier()
    before = read_named(net, state_names(net))
    plain = models.task(net, models.shard())
    result = trainer(Task(net, plain.data, 1, {}, {}, plain.generator, personal or {}))
    return before, read_named(net, state_names(net)), result


@pytest.mark.parametrize("name", TRAINERS)
def test_what_is_kept_is_sent_as_received_and_the_rest_is_trained(name):
    before, sent, result = trained(TRAINERS[name])
    kept = KEPT[name](models.classifier())
    assert set(result.personal) == set(kept)
    for key, value in before.items():
        assert torch.equal(sent[key], value) is (key in kept), key
    assert any(not torch.equal(result.personal[key], before[key]) for key in kept)


@pytest.mark.parametrize("name", TRAINERS)
def test_the_kept_layers_go_on_where_they_were(name):
    still = {**ONE, "optimizer": {"name": "SGD", "lr": 0.0}}
    again = {"fedper": fedper(**still), "fedrep": fedrep(1, **still), "fedbn": fedbn(**still)}
    first = trained(TRAINERS[name])[2].personal
    second = trained(again[name], first)[2].personal
    for key, value in first.items():
        assert "running" in key or torch.equal(second[key], value)


@pytest.mark.parametrize("make", [fedper, fedbn])
def test_a_first_round_trains_as_plain_local_training_does(make):
    """What is kept and what is sent are together the model of client=sgd."""
    sent, result = trained(make(**ONE))[1:]
    plain, report = trained(sgd(**ONE))[1:]
    for key, value in {**sent, **result.personal}.items():
        assert torch.equal(value, plain[key])
    assert result.sums == report.sums


def test_fedrep_trains_the_head_at_the_received_body_and_then_the_body_at_that_head():
    # the first part is training in which only the head has gradients; the second starts from it
    net = models.classifier()
    for one in net.backbone.parameters():
        one.requires_grad_(False)
    plain = models.task(net, models.shard())
    sgd(**{**ONE, "epochs": 2})(plain)
    assert torch.equal(trained(TRAINERS["fedrep"])[2].personal["last.weight"], net.last.weight)


def test_the_head_of_fedrep_learns_with_the_estimated_confusion():
    trainer = fedrep(1, **ONE, loss="forward_correction", robust_loss={"warmup": 1})
    heads = []
    for rows in (
        [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]],
    ):
        task = models.task(models.classifier(), models.shard(), round=2, memory={"confusion": rows})
        heads.append(trainer(task).personal["last.weight"])
    assert not torch.equal(*heads)


def test_a_model_without_batchnorm():
    net = models.classifier()
    net.backbone.norm = torch.nn.Identity()
    with pytest.raises(ConfigError, match=r"^client=fedbn: .*hidden_batchnorm=true"):
        fedbn()(models.task(net, models.shard()))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("client=fedper",), r"^client=fedper: .*set model.hidden=\[128\]"),
        (("client=fedrep",), r"^client=fedrep: .*set model.hidden=\[128\]"),
        (("client=fedbn", "model.hidden=[8]"), r"^client=fedbn: .*hidden_batchnorm=true"),
    ],
)
def test_with_a_frozen_backbone_something_must_be_left(words, reason):
    frozen = ("model.freeze=backbone", "model.feature_cache=false")
    with pytest.raises(ConfigError, match=reason):
        federations.build_experiment(*frozen, *words)


def test_hidden_layers_have_batchnorm_where_it_is_asked_for():
    words = ("model.freeze=backbone", "model.hidden=[8]", "model.hidden_batchnorm=true")
    model = federations.build_experiment(*words, "client=fedbn").new_model()
    assert batchnorm_names(model) == tuple(
        f"hidden.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")
    )


@pytest.mark.parametrize("value", [0, -1, 1.5, "a"])
def test_wrong_head_epochs(value):
    with pytest.raises(ConfigError, match=rf"client\.head_epochs={value}"):
        fedrep(value)
