"""The filter in a hospital: the received model embeds the shard, suspicious images stay out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedrobust.contamination.apply import attacker_owned
from fedrobust.contamination.backdoors.patch import backdoor_patch
from fedrobust.contamination.base import CLEAN
from fedrobust.contamination.labels.label_flip import label_flip
from fedrobust.contamination.updates.independent import sign_flip
from fedrobust.contamination.updates.ipm import ipm
from fedrobust.defences.sanitisation import none, sanitise
from fedrobust.defences.sanitisation.filtering import sanitise_shard
from fedrobust.defences.sanitisation.slab import slab
from fedrobust.defences.sanitisation.sphere import sphere
from fedrobust.learning.inference import embed
from tests.helpers import models


def test_features_are_the_model_s_in_eval_mode_and_its_modes_return() -> None:
    net = models.classifier(dropout=0.5)
    net.train()
    net.backbone.norm.eval()
    images = models.samples(7).images
    found = embed(net, images, batch_size=3)
    assert net.training
    assert not net.backbone.norm.training
    net.eval()
    assert torch.allclose(found, net.features(images / 255.0), atol=1e-6)
    assert found.shape == (7, 6)
    assert torch.allclose(found.norm(dim=1), torch.ones(7), atol=1e-5)
    assert not found.requires_grad


@pytest.mark.parametrize("sanitiser", [none(), sphere(warmup=3), sphere(quantile=0.0, warmup=0)])
def test_where_nothing_is_dropped(sanitiser) -> None:
    shard = models.shard()
    data, kept = sanitise_shard(sanitiser, models.classifier(), shard, 3)
    assert kept.all()
    assert torch.equal(data.train.images, shard.train.images)
    if not sanitiser.active(3):
        assert data is shard


@pytest.mark.parametrize("head", ["etf", "linear"])
def test_only_training_images_go(head: str) -> None:
    shard, net = models.shard(), models.classifier(head)
    data, kept = sanitise_shard(slab(quantile=0.25, warmup=0), net, shard, 1)
    expected = sanitise(
        slab(quantile=0.25), embed(net, shard.train.images), shard.train.labels
    ).kept_N
    assert torch.equal(kept, expected)
    assert int((~kept).sum()) == 12  # a quarter of 16 in each of three classes
    assert torch.equal(data.train.images, shard.train.images[kept])
    assert torch.equal(data.train.labels, shard.train.labels[kept])
    assert data.validation is shard.validation
    assert data.test is shard.test


@pytest.mark.parametrize("count", [0, 1])
def test_a_shard_of_nothing_or_of_one_image_is_left_alone(count: int) -> None:
    shard = replace(models.shard(), train=models.samples(3).take(torch.arange(count)))
    data, kept = sanitise_shard(
        sphere(anchors="etf", quantile=0.9, warmup=0), models.classifier(), shard, 1
    )
    assert (len(data.train), kept.tolist()) == (count, [True] * count)


def test_a_model_that_has_run_away_is_refused() -> None:
    net = models.classifier()
    with torch.no_grad():
        net.last.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        sanitise_shard(sphere(warmup=0), net, models.shard(), 1)


def test_who_owns_the_client_does_not_sanitise_itself() -> None:
    owned = [sign_flip(), ipm()]
    data_only = [CLEAN, label_flip(num_classes=3), backdoor_patch(num_classes=3)]
    assert [attacker_owned(one) for one in owned] == [True] * 2
    assert [attacker_owned(one) for one in data_only] == [False] * 3
