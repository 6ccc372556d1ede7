"""Inference on many images, batch by batch: probabilities, scores, features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedrobust.learning import batchnorm
from fedrobust.learning.augmentation import first_view
from fedrobust.learning.classifier import Classifier
from fedrobust.state import live_modules
from fedrobust.utils.images import as_unit

BATCH = 128


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Within the context the model is in eval mode, where frozen modules always are; every module's
    own mode returns."""
    modes = [(module, module.training) for module in live_modules(model)]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the context torch computes with one thread, so that no bit of a gradient depends on
    how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch has, each of which computes alone: on small batches faster than all
    of them at one, and the same bits for any number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def run_batches(
    model: nn.Module,
    images: Tensor,
    answer: Callable[[Tensor], Tensor],
    batch_size: int = BATCH,
) -> list[Tensor]:
    """Answers to all images, batch by batch, in eval mode and without gradients.

    Args:
        model: Where its parameters lie, the batches are computed; every module's mode returns.
        images: (N, C, H, W), uint8 or floats in [0, 1]; of a frozen backbone also features (N, F)
            or (N, V, F), of whose views the first is taken.
        answer: What is wanted of a batch (B, C, H, W) of floats in [0, 1], or (B, F), on the
            model's device.
        batch_size: Images in a batch, at least 1; it decides the last bits of a float32 result.

    Returns:
        One tensor per batch, as `answer` made it; none without images.
    """
    device = next(model.parameters()).device
    with eval_mode(model):
        return [
            answer(as_unit(part.to(device)))
            for part in torch.split(first_view(images), batch_size)
            if len(part)
        ]


def predict(
    model: Classifier,
    images: Tensor,
    batch_size: int = BATCH,
    purify: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Class probabilities (N, K), float32 on the CPU (see `run_batches`). purify: what a batch goes
    through before the model sees it."""

    def answer(batch: Tensor) -> Tensor:
        seen = batch if purify is None else purify(batch)
        return model.probabilities(model(seen)).float().cpu()

    parts = run_batches(model, images, answer, batch_size)
    return torch.cat(parts) if parts else torch.zeros(0, model.num_classes)


def predict_scores(model: Classifier, images: Tensor, batch_size: int = BATCH) -> Tensor:
    """Scores (N, K), inner products with the anchors or logits, float32 on the CPU (see
    `run_batches`)."""
    parts = run_batches(model, images, lambda batch: model(batch).float().cpu(), batch_size)
    return torch.cat(parts) if parts else torch.zeros(0, model.num_classes)


def recalibrate_and_score(
    model: Classifier, images: Tensor, others: Tensor
) -> tuple[Tensor, Tensor]:
    """`batchnorm.recalibrate` on images, and the recalibrated model's scores of them and of others:
    what two calls of `predict_scores` would give, but every image goes through the model once."""
    rows, answers = batchnorm.recalibrate(model, images)
    scores = torch.zeros(len(images), model.num_classes)
    if len(rows):
        scores[rows] = answers.float().cpu()
    rest = torch.ones(len(images), dtype=torch.bool)
    rest[rows] = False
    if rest.any():
        scores[rest] = predict_scores(model, images[rest])
    return scores, predict_scores(model, others)


def embed(model: Classifier, images: Tensor, batch_size: int = BATCH) -> Tensor:
    """Features (N, d), float32 on the CPU, of at least one image (see `run_batches`)."""
    return torch.cat(
        run_batches(model, images, lambda batch: model.features(batch).float().cpu(), batch_size)
    )
