from __future__ import annotations

from typing import Any

import pytest
import torch
from fedrobust.clients.adversarial import adversarial, attacked_loss
from fedrobust.clients.sgd import sgd

from fedrobust.contamination.evasion.pgd import pgd
from fedrobust.errors import ConfigError
from fedrobust.learning.losses import dot_regression
from fedrobust.state import Layout, read
from fedrobust.utils.images import as_unit
from fedrobust.utils.seeding import generator
from tests.helpers import models

FAST = {"loss": "cross_entropy", "augment": False, "optimizer": {"name": "Adam", "lr": 0.02}}


def trained(trainer: Any) -> tuple[Any, Any]:
    net = models.classifier()
    return net, trainer(models.task(net, models.shard()))


def robust_accuracy(net: Any, eps: float) -> float:
    data = models.shard().test
    attack = pgd().attack
    assert attack is not None
    images = attack(net, as_unit(data.images), data.labels, eps, generator(0, "judge"))
    with torch.no_grad():
        return float((net.eval()(images).argmax(1) == data.labels).double().mean())


def test_it_makes_the_model_harder_to_mislead() -> None:
    eps_255 = 32
    plain, _ = trained(sgd(epochs=12, **FAST))
    hardened, result = trained(adversarial(eps_255=eps_255, epochs=12, **FAST))
    assert robust_accuracy(hardened, 0.0) > 0.9
    assert robust_accuracy(hardened, eps_255 / 255) > robust_accuracy(plain, eps_255 / 255) + 0.15
    assert result.sums["extra_loss"] >= result.sums["loss"]  # attacked images cost more


def test_the_loss_by_hand() -> None:
    """An attack that makes everything black; weight 3 times the loss on black images."""
    net, data = models.classifier().eval(), models.samples(6)
    images = as_unit(data.images)
    loss = attacked_loss(
        models.task(net, models.shard()),
        dot_regression,
        lambda model, x, y, eps, g: x * 0,
        eps=0.1,
        weight=3.0,
    )
    expected = 3 * dot_regression(net(torch.zeros_like(images)), data.labels)
    torch.testing.assert_close(loss(images, torch.zeros(6, 3), data.labels), expected)


def test_the_same_seed_trains_the_same_model() -> None:
    one, two = (trained(adversarial(**FAST))[0] for _ in range(2))
    layout = Layout.of(one)
    assert torch.equal(read(one, layout).parameters, read(two, layout).parameters)
    plain = trained(sgd(**FAST))[0]
    assert not torch.equal(read(one, layout).parameters, read(plain, layout).parameters)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("eps_255", -1),
        ("eps_255", 300),
        ("attack_steps", 0),
        ("attack_step_size", 0),
        ("weight", 0),
        ("weight", "a"),
    ],
)
def test_wrong_settings(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"client\.{key}={value}"):
        adversarial(**{key: value})
