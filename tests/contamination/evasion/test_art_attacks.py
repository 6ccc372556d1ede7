"""Ours against the Adversarial Robustness Toolbox, and its own attacks through our adapter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fedrobust.clients.sgd import sgd
from torch import Tensor

from fedrobust.contamination.base import Evasion
from fedrobust.contamination.evasion.fgsm import fgsm
from fedrobust.contamination.evasion.gradients import differentiable_eval
from fedrobust.contamination.evasion.pgd import pgd
from fedrobust.utils.images import as_unit
from fedrobust.utils.seeding import generator
from tests.helpers import models

pytest.importorskip("art", reason="the extra attacks is not installed")

from fedrobust.contamination.evasion import art_attacks


@pytest.fixture(scope="module", params=["etf", "linear"])
def scene(request: pytest.FixtureRequest) -> tuple[Any, Tensor, Tensor]:
    """A model that gets its test images right, and those."""
    net, data = models.classifier(request.param), models.shard()
    sgd(loss="cross_entropy", epochs=12, augment=False, optimizer={"name": "Adam", "lr": 0.02})(
        models.task(net, data)
    )
    return net, as_unit(data.test.images), data.test.labels


def predicted(net: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net.eval()(images).argmax(1)


def run(evasion: Evasion, scene: tuple[Any, Tensor, Tensor], eps: float, seed: int = 0) -> Tensor:
    assert evasion.attack is not None
    return evasion.attack(*scene, eps, generator(seed, "attack"))


def same(ours: Tensor, theirs: Any) -> float:
    return float(((ours - torch.from_numpy(theirs)).abs() < 1e-6).double().mean())


@pytest.mark.parametrize("eps", [1 / 255, 8 / 255, 0.2])
def test_fgsm_is_theirs(scene: tuple[Any, Tensor, Tensor], eps: float) -> None:
    from art.attacks.evasion import FastGradientMethod

    net, images, labels = scene
    with differentiable_eval(net):
        theirs = FastGradientMethod(
            art_attacks.classifier(net, images), norm=np.inf, eps=eps
        ).generate(x=images.numpy(), y=labels.numpy())
    # a sign may differ where a gradient is 0 up to rounding
    assert same(run(fgsm(), scene, eps), theirs) > 0.999


@pytest.mark.parametrize("eps", [2 / 255, 8 / 255])
def test_pgd_is_theirs(scene: tuple[Any, Tensor, Tensor], eps: float) -> None:
    from art.attacks.evasion import ProjectedGradientDescent

    net, images, labels = scene
    with differentiable_eval(net):
        attack = ProjectedGradientDescent(
            art_attacks.classifier(net, images),
            norm=np.inf,
            eps=eps,
            eps_step=eps / 4,
            max_iter=20,
            verbose=False,
        )
        theirs = attack.generate(x=images.numpy(), y=labels.numpy())
    assert same(run(pgd(random_start=False), scene, eps), theirs) > 0.999


DEEPFOOL = art_attacks.deepfool()
CARLINI_WAGNER = art_attacks.carlini_wagner(
    binary_search_steps=2, initial_weight=10.0, steps=15, lr=0.1
)


@pytest.mark.parametrize(
    ("evasion", "count"), [(DEEPFOOL, 6), (CARLINI_WAGNER, 3)], ids=["deepfool", "carlini_wagner"]
)
def test_their_attacks_mislead_with_small_changes_and_leave_all_else_alone(
    evasion: Evasion, count: int, scene: tuple[Any, Tensor, Tensor]
) -> None:
    net, images, labels = scene[0].train(), scene[1][:count], scene[2][:count]
    net.zero_grad()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[union-attr,index,call-overload]
    found = run(evasion, (net, images, labels), 0.0)
    assert net.training
    assert not evasion.bounded
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert (np.random.get_state()[1] == numpy_before).all()  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (predicted(net, found) != labels).all()
    # classes lie .4 a value apart
    assert float((found - images).flatten(1).norm(dim=1).mean()) < 0.3 * (3 * 8 * 8) ** 0.5


def test_numpy_is_seeded_by_the_generator_alone() -> None:
    class Noise:
        def generate(self, x: Any, y: Any) -> Any:
            return x + np.random.uniform(0, 0.1, x.shape).astype(np.float32)

    attack = art_attacks.run_art_attack("noise", lambda classifier, eps, size: Noise())
    images, labels = as_unit(models.samples(4).images), models.samples(4).labels
    one, two, other = (
        attack(models.classifier(), images, labels, 0.1, generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_autoattack_stays_within_eps_and_is_at_least_as_strong_as_pgd(
    scene: tuple[Any, Tensor, Tensor],
) -> None:
    net, images, labels = scene[0], scene[1][:9], scene[2][:9]
    small = (net, images, labels)
    found = run(art_attacks.autoattack(steps=8, queries=40), small, 0.15)
    assert float((found - images).abs().max()) <= 0.15 + 1e-6
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    right = [int((predicted(net, one) == labels).sum()) for one in (found, run(pgd(), small, 0.15))]
    assert right[0] <= right[1]
    assert run(art_attacks.autoattack(), small, 0.0) is images


def test_deepfool_leaves_wrong_answers_alone(scene: tuple[Any, Tensor, Tensor]) -> None:
    net, images, labels = scene[0], scene[1][:6], scene[2][:6].clone()
    labels[:3] = (predicted(net, images[:3]) + 1) % 3  # as if the model got these wrong
    found = run(DEEPFOOL, (net, images, labels), 0.0)
    assert torch.equal(found[:3], images[:3])
    assert (predicted(net, found[3:]) != labels[3:]).all()
