"""The trained patch: what its training reaches, and that everybody has the same one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedrobust.contamination.apply import chain
from fedrobust.contamination.backdoors.trainable import (
    Aim,
    PatchTraining,
    backdoor_trainable,
    cosine,
    patch_side,
    place_patch,
    train_patch,
)
from fedrobust.contamination.labels.label_flip import label_flip
from fedrobust.contamination.mixture import mixture
from fedrobust.errors import ConfigError
from fedrobust.experiment import build
from fedrobust.learning.classifier import Classifier
from fedrobust.state import freeze
from fedrobust.types import Samples
from fedrobust.utils.seeding import generator
from tests.helpers import federations

FROZEN = ("model.freeze=backbone", "server.batchnorm=mean", "contamination=backdoor_trainable")


class Means(nn.Module):
    """A backbone whose features are the means of the colours in the corner and elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        corner = images[..., -4:, -4:].mean(dim=(-2, -1))
        return torch.cat([corner, images.mean(dim=(-2, -1))], dim=1) * self.scale


def model() -> Classifier:
    backbone = Means()
    freeze(backbone)
    torch.manual_seed(0)
    return Classifier(backbone, 6, 2, None, 1.0)


def samples(count: int = 64) -> Samples:
    """Class 0 is red, class 1 green, everywhere."""
    labels = torch.arange(count) % 2
    images = torch.zeros(count, 3, 16, 16)
    images[labels == 0, 0], images[labels == 1, 1] = 0.8, 0.8
    return Samples(images, labels)


def trained(seed: int = 0, **changes: Any) -> Tensor:
    steps = PatchTraining(**{"steps": 40, "step_size": 0.05} | changes)
    start = torch.full((3, 4, 4), 0.5)
    aim = Aim(0, "bottom_right")
    return train_patch(model(), samples(), start, aim, training=steps, generator=generator(seed))


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_the_patch_becomes_what_the_class_looks_like(balance: float) -> None:
    patch = trained(balance=balance)
    assert patch[0].min() > 0.9  # red
    assert patch[1].max() < 0.1  # not green
    assert torch.equal(patch, trained(balance=balance))


def test_the_model_is_left_alone() -> None:
    given, own = model(), samples()
    before = [one.clone() for one in given.state_dict().values()]
    start = torch.zeros(3, 4, 4)
    train_patch(
        given, own, start, Aim(0, "centre"), training=PatchTraining(steps=2), generator=generator(0)
    )
    assert all(map(torch.equal, given.state_dict().values(), before))
    assert not given.training or all(one.grad is None for one in given.parameters())
    assert start.eq(0).all()


def test_images_of_the_target_alone_teach_nothing() -> None:
    own, start = samples(), torch.rand(3, 4, 4)
    alone = own.take((own.labels == 0).nonzero().reshape(-1))
    found = train_patch(
        model(), alone, start, Aim(0, "centre"), training=PatchTraining(), generator=generator(0)
    )
    assert torch.equal(found, start)


def test_cosine_golden() -> None:
    one, other = model(), model()
    assert cosine(one, other) == pytest.approx(1.0)
    with torch.no_grad():
        for part in (other.last.weight, other.last.bias):
            part.neg_()
    assert cosine(one, other) == pytest.approx(-1.0)


def test_the_patch_lies_in_its_place_at_any_size() -> None:
    patch = torch.rand(3, 2, 2)
    images = torch.zeros(1, 3, 20, 30)
    shown = place_patch(patch, 0.2, "top_right")(images)
    assert patch_side(images, 0.2) == 4
    expected = patch.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    assert torch.equal(shown[0, :, :4, 26:], expected)
    assert shown.sum() == pytest.approx(float(expected.sum()))


def test_all_processes_have_the_trained_patch() -> None:
    words = (*FROZEN, "poisoned=[1]", "contamination.steps=2")
    one = federations.build_experiment(*words)
    build.forget_experiments()
    two = build.from_text(one.text)
    images = torch.rand(1, 3, 16, 16)
    given = one.contaminations["poisoned"].key
    assert given
    assert given == two.contaminations["poisoned"].key
    first, second = (each.backdoor.trigger(images) for each in (one, two))  # type: ignore[union-attr]
    assert torch.equal(first, second)
    untrained = backdoor_trainable(num_classes=3, steps=2).backdoor
    assert untrained is not None
    assert not torch.equal(untrained.trigger(images), first)
    assert one.clean_twin().clients_of_kind("poisoned") == []
    nobody = federations.build_experiment(*words[:-2], "poisoned=0")
    assert nobody.contaminations["poisoned"].key == ""


def test_what_it_cannot_be_used_with() -> None:
    with pytest.raises(ConfigError, match=r"^contamination=backdoor_trainable: trains its trigger"):
        federations.build_experiment("contamination=backdoor_trainable", "poisoned=[1]")
    with pytest.raises(ConfigError, match=r"^noise=backdoor_trainable: only poisoned clients"):
        federations.build_experiment("contamination@noise=backdoor_trainable", "noisy=[1]")
    made = backdoor_trainable(num_classes=3)
    with pytest.raises(ValueError, match="trains its trigger and cannot be joined"):
        chain("both", made, label_flip(num_classes=3))
    with pytest.raises(ConfigError, match="cannot be joined; take it out"):
        mixture(contaminations=[made], mode="cyclic")
    assert replace(made, key="k").key == "k"
