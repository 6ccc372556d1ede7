"""Predicting: any batch size, any image type, nothing about the model is changed."""

from __future__ import annotations

import pytest
import torch

from fedrobust.errors import ConfigError
from fedrobust.evaluation import settings
from fedrobust.evaluation.settings import Evaluation, EvasionEvaluation
from fedrobust.learning.inference import predict
from fedrobust.state import Layout, read
from fedrobust.utils.images import as_unit
from tests.helpers import models


@pytest.mark.parametrize("head", ["etf", "linear"])
def test_probabilities_by_hand_in_the_order_of_the_images(head: str) -> None:
    net, images = models.classifier(head).eval(), models.samples(7).images
    with torch.no_grad():
        expected = torch.softmax(net.scale * net(as_unit(images)), dim=1)
    for batch_size in (1, 3, 7, 100):
        found = predict(net, images, batch_size)
        assert torch.allclose(found, expected, atol=1e-6)
        assert (found.dtype, found.shape, found.requires_grad) == (torch.float32, (7, 3), False)


def test_bytes_and_unit_floats_give_the_same_bits() -> None:
    net, images = models.classifier(), models.samples(6).images
    assert torch.equal(predict(net, images), predict(net, as_unit(images)))


def test_no_images_no_rows() -> None:
    assert predict(models.classifier(), models.samples(4).images[:0]).shape == (0, 3)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_judged_in_eval_mode_and_left_as_it_was(training: bool) -> None:
    net = models.classifier(dropout=0.5).train(training)
    layout, images = Layout.of(net), models.samples(8).images
    before = read(net, layout)
    first, second = predict(net, images), predict(net, images)
    assert torch.equal(first, second)  # no dropout, no batch statistics
    assert net.training is training
    assert torch.equal(read(net, layout).buffers, before.buffers)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_mode_returns_even_when_the_model_fails() -> None:
    net = models.classifier().train()
    with pytest.raises(RuntimeError):
        predict(net, torch.zeros(2, 5, 8, 8))
    assert net.training


GOOD = {"bootstrap_samples": 0, "validation_images": 1, "batch_size": 1}


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"bootstrap_samples": -1}, "evaluation.bootstrap_samples=-1: must be at least 0"),
        ({"bootstrap_samples": 1.5}, "evaluation.bootstrap_samples=1.5: must be a whole number"),
        ({"validation_images": 0}, "evaluation.validation_images=0: must be at least 1"),
        ({"batch_size": "big"}, "evaluation.batch_size=big: must be a whole number"),
        ({"batch_size": 0}, "evaluation.batch_size=0: must be at least 1"),
        ({"twin": "no"}, "evaluation.twin=no: must be true or false"),
        (
            {"evasion_evaluation": [1]},
            r"evaluation.evasion_evaluation=\[1\]: must be a group of settings: eps_255, .*",
        ),
        (
            {"evasion_evaluation": {"eps": [1]}},
            r"evaluation.evasion_evaluation.eps=\[1\]: unknown setting; did you mean eps_255\? .*",
        ),
        (
            {"evasion_evaluation": {"eps_255": [0]}},
            "evaluation.evasion_evaluation.eps_255=0: must be greater than 0",
        ),
    ],
)
def test_settings_are_checked(wrong: dict[str, object], line: str) -> None:
    assert settings.settings(**GOOD) == Evaluation(0, 1, 1, True)
    inner = {"eps_255": [3], "fusion": True}
    found = settings.settings(**GOOD, evasion_evaluation=inner).evasion_evaluation
    assert found == EvasionEvaluation(eps_255=(3.0,), fusion=True)
    with pytest.raises(ConfigError, match=f"^{line}$"):
        settings.settings(**{**GOOD, **wrong})  # type: ignore[arg-type]
