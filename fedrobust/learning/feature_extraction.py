"""Features of images by a frozen backbone, computed once; augmented views of an image stand in for
its augmentation in training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from fedrobust.learning.augmentation import augment
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.inference import eval_mode, one_thread_each
from fedrobust.utils.images import as_unit
from fedrobust.utils.seeding import generator

BATCH = 64  # decides the last bits of a feature, so it is no setting
OnBatch = Callable[[int], None]  # is told how many images have just gone through the backbone


def _ignore(_: int) -> None:
    pass


def extract_features(model: Classifier, images: Tensor, on_batch: OnBatch = _ignore) -> Tensor:
    """Pooled features of unaugmented images by the backbone.

    Args:
        model: where its parameters lie, the images are computed; every module's mode returns.
        images: (N, 3, H, W), uint8 or floats in [0, 1].
        on_batch: called after each batch.

    Returns:
        (N, F) float32 on the CPU. On a CPU they do not depend on the number of torch's threads.
    """
    return _extract(model, images, None, on_batch)


def extract_views(
    model: Classifier, images: Tensor, views: int, on_batch: OnBatch = _ignore
) -> Tensor:
    """Pooled features of augmented views of images.

    Args:
        model: as in `extract_features`.
        images: (N, 3, H, W), uint8 or floats in [0, 1].
        views: how many of each image; view v is the same in every run (a seed of its own).
        on_batch: called after each batch; each view of an image counts.

    Returns:
        (N, views, F) float32 on the CPU.
    """
    draws = [generator(0, "feature views", view) for view in range(views)]
    parts = [_extract(model, images, one, on_batch) for one in draws]
    return torch.stack(parts, dim=1)


@torch.no_grad()
def _extract(
    model: Classifier, images: Tensor, random: torch.Generator | None, on_batch: OnBatch
) -> Tensor:
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
            return torch.cat(list(_reported(map(compute, batches()), on_batch)))
        with one_thread_each() as pool:
            return torch.cat(list(_reported(pool.map(compute, batches()), on_batch)))


def _reported(parts: Iterable[Tensor], on_batch: OnBatch) -> Iterator[Tensor]:
    for part in parts:
        on_batch(len(part))
        yield part
