"""Features of images by a frozen backbone, computed once; augmented views of an image stand in for
its augmentation in training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fedrobust.learning.augmentation import augment
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.inference import eval_mode, one_thread_each
from fedrobust.utils.images import as_unit
from fedrobust.utils.seeding import generator

BATCH = 64  # decides the last bits of a feature, so it is no setting


def extract_features(model: Classifier, images: Tensor) -> Tensor:
    """Pooled features of unaugmented images by the backbone.

    Args:
        model: where its parameters lie, the images are computed; every module's mode returns.
        images: (N, 3, H, W), uint8 or floats in [0, 1].

    Returns:
        (N, F) float32 on the CPU. On a CPU they do not depend on the number of torch's threads.
    """
    return _extract(model, images, None)


def extract_views(model: Classifier, images: Tensor, views: int) -> Tensor:
    """Pooled features of augmented views of images.

    Args:
        model: as in `extract_features`.
        images: (N, 3, H, W), uint8 or floats in [0, 1].
        views: how many of each image; view v is the same in every run (a seed of its own).

    Returns:
        (N, views, F) float32 on the CPU.
    """
    parts = [_extract(model, images, generator(0, "feature views", view)) for view in range(views)]
    return torch.stack(parts, dim=1)


@torch.no_grad()
def _extract(model: Classifier, images: Tensor, random: torch.Generator | None) -> Tensor:
    device = next(model.parameters()).device

    def batches() -> Iterator[Tensor]:
        for part in torch.split(images, BATCH):
            # drawn here, in order; the rest may be done in any
            yield part if random is None else augment(part, random)

    @torch.inference_mode()
    def compute(part: Tensor) -> Tensor:
        return model.pool(as_unit(part.to(device))).float().cpu()

    if not len(images):
        with eval_mode(model):
            width = compute(images.new_zeros(1, *images.shape[1:])).shape[1]
        return torch.zeros(0, width)
    with eval_mode(model):
        # with one thread on a CPU a second one would only allocate memory of its own
        if device.type != "cpu" or torch.get_num_threads() == 1:
            return torch.cat([compute(part) for part in batches()])
        with one_thread_each() as pool:
            return torch.cat(list(pool.map(compute, batches())))
