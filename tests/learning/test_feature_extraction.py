"""Features of a frozen backbone: those of the network, whatever the threads."""

from __future__ import annotations

import pytest
import torch

from fedrobust.learning.augmentation import augment
from fedrobust.learning.feature_extraction import BATCH, extract_features, extract_views
from fedrobust.utils.images import as_unit
from fedrobust.utils.seeding import generator
from tests.helpers import models


@pytest.mark.parametrize("head", ["etf", "linear"])
def test_scores_from_features_are_the_network_s(head: str) -> None:
    net, images = models.classifier(head), models.samples(BATCH + 5).images
    net.train()
    found = extract_features(net, images)
    assert net.training
    net.eval()
    with torch.no_grad():
        assert torch.allclose(net(found), net(as_unit(images)), atol=1e-5)
    assert not found.requires_grad
    assert not found.is_inference()


def test_views_are_augmentations_that_every_run_has_alike() -> None:
    net, images = models.classifier(), models.samples(BATCH + 5).images
    found = extract_views(net, images, 2)
    assert found.shape == (len(images), 2, 8)
    random = generator(0, "feature views", 1)
    turned = torch.cat([augment(part, random) for part in images.split(BATCH)])
    assert torch.equal(found[:, 1], extract_features(net, turned))
    assert torch.equal(found, extract_views(net, images, 2))
    assert not torch.equal(found[:, 0], found[:, 1])


def test_the_number_of_threads_changes_no_bit() -> None:
    net, images, before = models.resnet(), models.samples(3 * BATCH, size=32).images, None
    threads = torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            found = extract_views(net, images, 1)
            assert torch.get_num_threads() == number
            before = found if before is None else before
            assert torch.equal(found, before)
    finally:
        torch.set_num_threads(threads)


def test_no_images_have_no_features_of_the_right_width() -> None:
    net, images = models.classifier(), models.samples(4).images[:0]
    assert extract_features(net, images).shape == (0, 8)
    assert extract_views(net, images, 3).shape == (0, 3, 8)
