"""Models behind purifiers: whose statistics they have, and that theirs is a copy."""

from __future__ import annotations

import torch

from fedrobust.defences.purification.filters import gaussian
from fedrobust.defences.purification.statistics import with_purified_statistics
from fedrobust.learning import batchnorm
from fedrobust.types import NO_PURIFIER
from fedrobust.utils.seeding import generator
from tests.helpers import federations


def test_its_statistics_are_those_of_purified_images() -> None:
    model = federations.build_server().model
    images = torch.rand(12, 3, 16, 16, generator=generator(0, "images"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    purifier = gaussian(std=1.0)
    adapted = with_purified_statistics(model, purifier, images, generator(0, "purifier"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    batchnorm.recalibrate(model, purifier.purify(images, generator(0, "purifier")))
    for name, value in adapted.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
        assert torch.equal(value, before[name]) == ("running" not in name)


def test_without_a_purifier_they_are_those_of_the_images() -> None:
    model = federations.build_server().model
    images = (255 * torch.rand(12, 3, 16, 16, generator=generator(0, "images"))).to(torch.uint8)
    adapted = with_purified_statistics(model, NO_PURIFIER, images, generator(0, "purifier"))
    batchnorm.recalibrate(model, images)
    assert all(
        torch.equal(value, model.state_dict()[name]) for name, value in adapted.state_dict().items()
    )
