"""A model behind a purifier, with BatchNorm statistics of what comes out of it."""

from __future__ import annotations

import copy

from torch import Generator, Tensor

from fedrobust.learning import batchnorm
from fedrobust.learning.classifier import Classifier
from fedrobust.types import Purifier
from fedrobust.utils.images import as_unit


def with_purified_statistics(
    model: Classifier, purifier: Purifier, images: Tensor, generator: Generator
) -> Classifier:
    """A copy of the model whose BatchNorm statistics are those of purified images; nothing is
    trained, labels are not needed.

    Purified images are smoother than those a model was trained on, and statistics of the latter
    cost it much of its accuracy on them (docs/results/mdda.md). images: (N, 3, H, W), uint8 or unit
    floats, some hundred unattacked ones.
    """
    device = next(model.parameters()).device
    adapted = copy.deepcopy(model)
    batchnorm.recalibrate(adapted, purifier.purify(as_unit(images.to(device)), generator))
    return adapted
