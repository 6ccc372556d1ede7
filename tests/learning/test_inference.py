"""The one batched loop: its answers, its modes and what it leaves behind."""

from __future__ import annotations

import torch

from fedrobust.learning.inference import embed, predict, predict_scores, run_batches
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
