"""Chameleon's two stages: the contrastive loss by hand, what each of them trains, and a client that
goes through both."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from fedrobust.clients.sgd import sgd
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from fedrobust.contamination.apply import attacker_owned, chain
from fedrobust.contamination.backdoors.chameleon import (
    ContrastSettings,
    adapt_encoder,
    backdoor_chameleon,
    contrastive_loss,
    encoder_parameters,
)
from fedrobust.contamination.labels.label_flip import label_flip
from fedrobust.learning.classifier import Classifier, hidden_layers
from fedrobust.types import Samples, Shard, Task, TrainResult
from tests.helpers import federations
from tests.helpers.attacks import normal
from tests.helpers.federations import MEAN
from tests.runtime.server.test_schedule import hospital, reply


def test_the_contrastive_loss_golden() -> None:
    # three images, the first two of one class and at right angles, the third like the first
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    labels = torch.tensor([0, 0, 1])
    # similarities of the first: 0 and 1; of the second: 0 and 0; the third has nobody of its class
    first, second = -math.log(1 / (1 + math.e)), -math.log(1 / 2)
    expected = (first + second) / 2
    assert float(contrastive_loss(features, labels, 1.0)) == pytest.approx(expected, rel=1e-6)
    assert float(contrastive_loss(features, torch.arange(3), 1.0)) == 0
    assert float(contrastive_loss(features[:1], labels[:1], 1.0)) == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 9), classes=st.integers(1, 4))
def test_the_loss_is_finite_and_knows_neither_lengths_nor_order(
    seed: int, count: int, classes: int
) -> None:
    features = normal(seed, count, 5).requires_grad_()
    labels = torch.randint(classes, (count,), generator=Generator().manual_seed(seed))
    loss = contrastive_loss(features, labels, 0.1)
    loss.backward()
    assert loss.detach() >= 0
    assert features.grad is not None
    assert features.grad.isfinite().all()
    other = contrastive_loss(3 * features.detach().flip(0), labels.flip(0), 0.1)
    assert float(other) == pytest.approx(float(loss.detach()), rel=1e-3, abs=1e-5)


def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Flatten(), 12, 3, None, 1.0, hidden=hidden_layers(12, (8,)))


def samples() -> Samples:
    return Samples(normal(1, 30, 12).abs(), torch.arange(30) % 3)


def named(one: Classifier) -> Mapping[str, Tensor]:
    return {name: part.detach().clone() for name, part in one.named_parameters()}


def test_the_first_stage_gathers_classes_and_leaves_the_classifier() -> None:
    one, own = model(), samples()
    before = named(one)
    start = float(contrastive_loss(one.hidden(own.images), own.labels, 0.1).detach())
    contrast = ContrastSettings(contrast_epochs=60, contrast_lr=0.02)
    adapt_encoder(one, encoder_parameters(one), own, contrast, Generator().manual_seed(0))
    assert float(contrastive_loss(one.hidden(own.images), own.labels, 0.1).detach()) < 0.8 * start
    after = named(one)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"hidden.0.weight", "hidden.0.bias"}
    assert all(part.grad is None for part in one.parameters())


def test_the_second_stage_trains_the_classifier_alone() -> None:
    one, seen = model(), []

    def trainer(task: Task) -> TrainResult:
        seen.append([name for name, part in task.model.named_parameters() if part.requires_grad])
        return TrainResult(1, {})

    stage = backdoor_chameleon(num_classes=3).train
    assert stage is not None
    shard = Shard(samples(), samples(), samples())
    stage(trainer)(Task(one, shard, 1, {}, {}, Generator()))
    assert seen == [["last.weight", "last.bias"]]
    assert all(part.requires_grad for part in one.parameters())


def test_without_layers_before_the_classifier_it_is_the_own_training() -> None:
    bare = Classifier(nn.Flatten(), 12, 3, None, 1.0)
    assert encoder_parameters(bare) == []
    trainer = sgd(loss="cross_entropy", steps=1, batch_size=4, augment=False)
    stage = backdoor_chameleon(num_classes=3).train
    assert stage is not None
    shard, copy = Shard(samples(), samples(), samples()), Classifier(nn.Flatten(), 12, 3, None, 1.0)
    copy.load_state_dict(bare.state_dict())
    trainer(Task(bare, shard, 1, {}, {}, Generator().manual_seed(3)))
    stage(trainer)(Task(copy, shard, 1, {}, {}, Generator().manual_seed(3)))
    assert all(map(torch.equal, bare.parameters(), copy.parameters()))


def test_a_client_goes_through_both_stages_with_equal_bits() -> None:
    words = (*MEAN, "poisoned=[1]", "contamination=backdoor_chameleon")
    server = federations.build_server(*words)
    one, two = (reply(server, hospital()) for _ in range(2))
    assert torch.equal(one.parameters, two.parameters)
    plain = federations.build_server(*words[:-1], "contamination=backdoor_patch")
    assert not torch.equal(reply(plain, hospital()).parameters, one.parameters)
    assert torch.equal(
        reply(server, hospital(), attack=0).parameters,
        reply(plain, hospital(), attack=0).parameters,
    )


def test_it_is_an_attackers_training() -> None:
    damage = backdoor_chameleon(num_classes=3)
    assert attacker_owned(damage)
    assert backdoor_chameleon(num_classes=3, rate=0.0).train is None
    assert chain("both", damage, label_flip(num_classes=3)).train is damage.train
    with pytest.raises(ValueError, match="may have a backdoor"):
        chain("both", damage, damage)
