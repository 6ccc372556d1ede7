"""The one batched loop: its answers, its modes and what it leaves behind."""

from __future__ import annotations

import pytest
import torch

from fedrobust.learning import batchnorm
from fedrobust.learning.inference import (
    embed,
    predict,
    predict_scores,
    recalibrate_and_score,
    run_batches,
)
from fedrobust.utils.images import as_unit
from tests.helpers import models


def test_probabilities_scores_and_features_are_the_model_s_of_the_same_batches() -> None:
    net, images = models.classifier(), models.samples(7).images
    with torch.no_grad():
        net.eval()
        parts = [as_unit(part) for part in images.split(3)]
        scores = torch.cat([net(part) for part in parts])
        features = torch.cat([net.features(part) for part in parts])
    net.train()
    assert torch.equal(predict_scores(net, images, 3), scores)
    assert torch.equal(predict(net, images, 3), net.probabilities(scores))
    assert torch.equal(embed(net, images, 3), features)


def test_every_module_s_own_mode_returns_and_nothing_has_a_gradient() -> None:
    net, images = models.classifier().train(), models.samples(5).images
    frozen = list(net.modules())[-1]
    frozen.eval()
    seen = run_batches(net, images, lambda batch: torch.tensor(net.training), 2)
    assert not any(seen)
    assert len(seen) == 3
    assert net.training
    assert not frozen.training
    assert not predict_scores(net, images).requires_grad


def test_without_images_there_are_no_rows() -> None:
    net, images = models.classifier(), models.samples(4).images[:0]
    assert run_batches(net, images, net) == []
    assert predict_scores(net, images).shape == predict(net, images).shape == (0, 3)


@pytest.mark.parametrize("most", [16, 4])
def test_one_pass_gives_the_statistics_and_scores_of_three(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Bit by bit where all images fit into the pass that takes the statistics."""
    monkeypatch.setattr(batchnorm, "MOST_IMAGES", most)
    images, others = models.samples(10, size=32).images, models.samples(6, 1, size=32).images
    three, one = models.resnet(), models.resnet()
    batchnorm.recalibrate(three, images)
    expected = predict_scores(three, images), predict_scores(three, others)
    seen: list[int] = []
    one.register_forward_hook(lambda _model, inputs, _output: seen.append(len(inputs[0])))
    found = recalibrate_and_score(one, images, others)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
        assert most < 10 or torch.equal(mine, theirs)
    assert all(
        torch.equal(mine.running_var, theirs.running_var)
        for mine, theirs in zip(batchnorm.layers(one), batchnorm.layers(three), strict=True)
    )
    assert sum(seen) == 16  # every image once


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_for_statistics_are_scored_all_the_same(count: int) -> None:
    net, images = models.classifier(), models.samples(4).images
    expected = predict_scores(net, images)
    first, others = recalibrate_and_score(net, images[:count], images)
    torch.testing.assert_close(first, expected[:count])
    assert torch.equal(others, expected)
