"""Attacks that know the purifier: their bounds, what they share with PGD, and that knowing
helps."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedrobust.contamination.base import AdaptiveAttack
from fedrobust.contamination.evasion.adaptive import Effort, bpda_eot, differentiate_through
from fedrobust.contamination.evasion.pgd import pgd
from fedrobust.defences.purification.filters import gaussian, jpeg_compression
from fedrobust.defences.purification.mdda import mdda
from fedrobust.types import NO_PURIFIER, Purifier
from fedrobust.utils.images import as_unit
from fedrobust.utils.seeding import generator
from tests.helpers import models

EPS = 8 / 255
both = pytest.mark.parametrize("attack", [bpda_eot, differentiate_through])


def scene() -> tuple[torch.nn.Module, Tensor, Tensor]:
    samples = models.samples(12, size=8)
    return models.classifier().eval(), as_unit(samples.images), samples.labels


def random() -> torch.Generator:
    return generator(0, "threat")


def loss(model: torch.nn.Module, images: Tensor, labels: Tensor, purifier: Purifier) -> float:
    with torch.no_grad():
        return float(
            cross_entropy(16 * model(purifier.purify(images, generator(1, "judge"))), labels)
        )


@both
def test_without_a_purifier_both_are_pgd(attack: AdaptiveAttack) -> None:
    model, images, labels = scene()
    plain = pgd(steps=5).attack
    assert plain is not None
    wanted = plain(model, images, labels, EPS, random())
    assert torch.equal(
        partial(attack, effort=Effort(5, 1))(model, images, labels, EPS, NO_PURIFIER, random()),
        wanted,
    )


@both
@pytest.mark.parametrize(
    "purifier", [gaussian(std=1.0), mdda(std=0.02, blocks=1, weight=0.05)], ids=lambda one: one.name
)
def test_bounds_seed_and_a_model_left_alone(attack: AdaptiveAttack, purifier: Purifier) -> None:
    model, images, labels = scene()
    model.train()
    before, state = (
        images.clone(),
        {name: value.clone() for name, value in model.state_dict().items()},
    )
    with torch.no_grad():  # gradients flow also inside no_grad
        attacked = partial(attack, effort=Effort(3, 2))(
            model, images, labels, EPS, purifier, random()
        )
        again = partial(attack, effort=Effort(3, 2))(model, images, labels, EPS, purifier, random())
    assert torch.equal(attacked, again)
    assert not attacked.requires_grad
    assert float((attacked - images).abs().max()) <= EPS + 1e-7
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(
        parameter.grad is None and parameter.requires_grad for parameter in model.parameters()
    )


@both
def test_eps_0_changes_nothing(attack: AdaptiveAttack) -> None:
    model, images, labels = scene()
    assert torch.equal(attack(model, images, labels, 0.0, gaussian(), random()), images)


@both
def test_every_step_takes_all_draws(attack: AdaptiveAttack) -> None:
    calls: list[int] = []
    counting = Purifier("counting", lambda images, generator: calls.append(len(images)) or images)
    model, images, labels = scene()
    partial(attack, effort=Effort(3, 4))(model, images, labels, EPS, counting, random())
    assert calls == [12] * 12


@both
def test_whoever_knows_the_purifier_gets_further(attack: AdaptiveAttack) -> None:
    model, images, labels = scene()
    blind_attack, purifier = pgd(steps=10).attack, gaussian(std=1.0)
    assert blind_attack is not None
    blind = blind_attack(model, images, labels, EPS, random())
    knowing = partial(attack, effort=Effort(10, 1))(model, images, labels, EPS, purifier, random())
    assert (
        loss(model, knowing, labels, purifier)
        > loss(model, blind, labels, purifier)
        > loss(model, images, labels, purifier)
    )


def test_no_gradient_no_differentiated_attack() -> None:
    model, images, labels = scene()
    with pytest.raises(ValueError, match="purifier=jpeg: has no gradient; attack it with bpda_eot"):
        differentiate_through(model, images, labels, EPS, jpeg_compression(), random())
    assert (
        partial(bpda_eot, effort=Effort(2, 1))(
            model, images, labels, EPS, jpeg_compression(), random()
        ).shape
        == images.shape
    )
