"""Laws of the attacks of our own, and what they do to a model that can be followed by hand."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from fedrobust.clients.sgd import sgd
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

from fedrobust import configs
from fedrobust.contamination.base import Evasion
from fedrobust.contamination.evasion import attack_images, gradients, none
from fedrobust.contamination.evasion.fgsm import fgsm
from fedrobust.contamination.evasion.pgd import pgd
from fedrobust.errors import ConfigError
from fedrobust.experiment import factories
from fedrobust.utils.images import as_unit
from fedrobust.utils.seeding import generator
from tests.helpers import models

FOLDER = Path(configs.__file__).parent / "evasion"
OWN = ("fgsm", "pgd")
own = pytest.mark.parametrize("name", OWN)
ROUNDING = 1e-6  # of float32 sums near 1


def build(name: str, **overrides: Any) -> Evasion:
    shown = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    assert isinstance(shown, dict)
    made = factories.build_group({"evasion": {**shown, **overrides}}, "evasion")
    assert isinstance(made, Evasion)
    return made


def pictures(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 3, 8, 8, generator=generator(seed, "pictures")), torch.arange(
        count
    ) % 3


def run(
    evasion: Evasion, model: Any, images: Tensor, labels: Tensor, eps: float, *, seed: int = 0
) -> Tensor:
    assert evasion.attack is not None
    return evasion.attack(model, images, labels, eps, generator(seed, "attack"))


class Line(nn.Module):
    """Two classes; scores (s, -s) with s = w . x, so that everything is known: the loss of class 0
    falls with s, that of class 1 grows."""

    scale, num_classes = 3.0, 2

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, -0.25]))

    def forward(self, images: Tensor) -> Tensor:
        s = images.flatten(1) @ self.w
        return torch.stack([s, -s], dim=1)


def test_fgsm_by_hand() -> None:
    images = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.02, 0.98, 0.5, 0.5]]).view(2, 1, 2, 2)
    found = run(fgsm(), Line(), images, torch.tensor([0, 1]), 0.1).flatten(1)
    # class 0: against the signs (+ - + -) of w; class 1: along them, and cut: .02 + .1 = .12, .98 -
    # .1 = .88
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.6, 0.4, 0.6], [0.12, 0.88, 0.6, 0.4]]))
    beyond = run(fgsm(), Line(), images, torch.tensor([1, 0]), 0.1).flatten(1)
    # .02 - .1 and .98 + .1 are cut to [0, 1]
    torch.testing.assert_close(beyond[1], torch.tensor([0.0, 1.0, 0.4, 0.6]))


@pytest.mark.parametrize("start", [True, False])
def test_pgd_on_a_line_ends_in_the_corner(start: bool) -> None:
    """20 steps of eps / 4 reach the far end of every interval from any start."""
    images = torch.full((1, 1, 2, 2), 0.5)
    found = run(pgd(random_start=start), Line(), images, torch.tensor([0]), 0.1).flatten()
    torch.testing.assert_close(found, torch.tensor([0.4, 0.6, 0.4, 0.6]))


def test_steps_by_hand() -> None:
    # one step of .75 eps from the image: .5 -+ .075; three of them would be .225, cut to eps = .1
    images = torch.full((1, 1, 2, 2), 0.5)
    for steps, moved in ((1, 0.075), (3, 0.1)):
        found = run(
            pgd(steps=steps, step_size=0.75, random_start=False),
            Line(),
            images,
            torch.tensor([1]),
            0.1,
        ).flatten()
        torch.testing.assert_close(found, 0.5 + moved * torch.tensor([1.0, -1.0, 1.0, -1.0]))


@own
@settings(max_examples=15)
@given(
    eps_255=st.floats(0, 32), seed=st.integers(0, 2**31), head=st.sampled_from(["etf", "linear"])
)
def test_never_further_than_eps_and_always_in_range(
    name: str, eps_255: float, seed: int, head: str
) -> None:
    (images, labels), model = pictures(seed=seed), models.classifier(head, seed=seed % 7)
    before = images.clone()
    found = run(
        build(name, **({"steps": 4} if name == "pgd" else {})),
        model,
        images,
        labels,
        eps_255 / 255,
        seed=seed,
    )
    assert torch.equal(images, before)
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert float((found - images).abs().max()) <= eps_255 / 255 + ROUNDING
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


@own
def test_eps_zero_is_the_identity(name: str) -> None:
    images, labels = pictures()
    assert torch.equal(run(build(name), models.classifier(), images, labels, 0.0), images)


@own
def test_the_generator_decides_everything(name: str) -> None:
    images, labels = pictures()
    one, two, other = (
        run(build(name), models.classifier(), images, labels, 0.05, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert torch.equal(one, other) == (name == "fgsm")  # which has no randomness


@own
@pytest.mark.parametrize("head", ["etf", "linear"])
def test_every_images_loss_goes_up(name: str, head: str) -> None:
    images, labels = pictures(12)
    model = models.classifier(head).eval()
    found = run(build(name), model, images, labels, 1 / 255)
    with torch.no_grad():
        before, after = (
            torch.stack(
                [
                    gradients.attack_loss(model, x[None], y[None])
                    for x, y in zip(them, labels, strict=True)
                ]
            )
            for them in (images, found)
        )
    assert (after > before).all()


def test_the_gradient_is_that_of_central_differences() -> None:
    (images, labels), model = pictures(2), models.classifier("linear").double().eval()
    images = images.double()
    slope = gradients.loss_gradient(model, images, labels)
    for place in ((0, 0, 3, 3), (1, 2, 7, 0)):
        shift = torch.zeros_like(images)
        shift[place] = 1e-5
        with torch.no_grad():
            up, down = (
                gradients.attack_loss(model, images + sign * shift, labels) for sign in (1, -1)
            )
        assert float(slope[place]) == pytest.approx(float(up - down) / 2e-5, rel=1e-4, abs=1e-7)


@own
def test_the_model_is_left_as_it_was_found(name: str) -> None:
    model = models.classifier(dropout=0.5).train()
    model.backbone.norm.eval()
    frozen = next(model.parameters()).requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    wanted = [p.requires_grad for p in model.parameters()]
    with torch.no_grad():  # an attack inside a prediction
        one = run(build(name), model, *pictures(), 0.05)
    assert model.training
    assert model.backbone.drop.training
    assert not model.backbone.norm.training
    assert not frozen.requires_grad
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    # dropout played no part
    assert torch.equal(one, run(build(name), model.eval(), *pictures(), 0.05))


def test_batches_are_attacked_one_by_one_in_their_order() -> None:
    images, labels = pictures(7)
    stored = (255 * images).to(torch.uint8)
    sizes = []

    def shift(model: Any, x: Tensor, y: Tensor, eps: float, g: torch.Generator) -> Tensor:
        sizes.append(len(x))
        return x * 0.5 + eps

    found = attack_images(
        shift, models.classifier(), stored, labels, eps=0.25, generator=generator(0), batch_size=3
    )
    assert sizes == [3, 3, 1]
    torch.testing.assert_close(found, as_unit(stored) * 0.5 + 0.25)
    assert attack_images(
        shift,
        models.classifier(),
        stored[:0],
        labels[:0],
        eps=0.25,
        generator=generator(0),
        batch_size=3,
    ).shape == (0, 3, 8, 8)


def test_it_misleads_a_trained_model() -> None:
    """The class is a colour brighter by .4: an honest model needs to be moved by about .2 a
    value."""
    net, data = models.classifier(), models.shard()
    sgd(loss="cross_entropy", epochs=12, augment=False, optimizer={"name": "Adam", "lr": 0.02})(
        models.task(net, data)
    )
    net.eval()
    images, labels = as_unit(data.test.images), data.test.labels

    def accuracy(them: Tensor) -> float:
        with torch.no_grad():
            return float((net(them).argmax(1) == labels).double().mean())

    assert accuracy(images) > 0.9
    for evasion, most in ((fgsm(), 0.5), (pgd(), 0.1)):
        weak, strong = (accuracy(run(evasion, net, images, labels, eps)) for eps in (0.01, 0.3))
        assert weak > strong
        assert strong < most


def test_no_attack() -> None:
    assert none() == Evasion("none", None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("steps", 1.5),
        ("steps", "many"),
        ("step_size", 0),
        ("step_size", 2.5),
        ("step_size", "a"),
        ("random_start", 1),
    ],
)
def test_wrong_settings(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^evasion\.{key}={value}"):
        build("pgd", **{key: value})


@pytest.mark.parametrize("name", [path.stem for path in FOLDER.glob("*.yaml")])
def test_an_attack_has_the_name_of_its_file(name: str) -> None:
    assert build(name).name == name


@pytest.mark.parametrize("name", [path.stem for path in FOLDER.glob("*.yaml")])
def test_the_yaml_shows_every_setting_with_its_default(name: str) -> None:
    shown = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    assert isinstance(shown, dict)
    factory = factories.find_factory("evasion", shown.pop("_target_"))
    assert shown == {key: one.default for key, one in inspect.signature(factory).parameters.items()}
