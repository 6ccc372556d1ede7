"""BatchNorm in a federation: averaged running statistics are stale; these helpers re-estimate or
freeze them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedrobust.state import Layout, State, live_modules, load, read
from fedrobust.utils.images import as_unit


def layers(model: nn.Module) -> list[_BatchNorm]:
    """The model's BatchNorm layers that keep running statistics, without frozen ones."""
    return [
        module
        for module in live_modules(model)
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


@torch.no_grad()
def recalibrate(model: nn.Module, images: Tensor, batch_size: int = 64) -> None:
    """Replace the running statistics of every BatchNorm by those of `images` (N, 3, H, W), uint8 or
    unit floats, in one forward pass.

    Every batch counts the same (cumulative average); batch i is every n-th image, so sorted images
    do no harm. Only the running means and variances change: parameters, modes, momenta and
    `num_batches_tracked` stay. Fewer than two images have no variance between them and leave the
    model alone, as does a model without BatchNorm or with frozen BatchNorm alone. No randomness.
    """
    found = layers(model)
    if not found or len(images) < 2:
        return
    batches = min(-(-len(images) // batch_size), len(images) // 2)
    device = found[0].weight.device if found[0].weight is not None else images.device
    with _estimating(model, found):
        for start in range(batches):
            model(as_unit(images[start::batches].to(device)))


def load_and_recalibrate(
    model: nn.Module, layout: Layout, state: State, images: Tensor | None
) -> State:
    """Load a state, and re-estimate its BatchNorm statistics on images where there are some (None:
    it keeps its own; see `recalibrate`). Returns what the model then holds."""
    load(model, layout, state)
    if images is None:
        return state
    recalibrate(model, images)
    return State(state.parameters, read(model, Layout((), layout.buffers)).buffers)


@contextmanager
def _estimating(model: nn.Module, found: list[_BatchNorm]) -> Iterator[None]:
    """Everything in eval mode but BatchNorm, which starts anew and averages cumulatively (momentum
    None)."""
    modes = {module: module.training for module in model.modules()}
    kept = [(layer, layer.momentum, layer.num_batches_tracked) for layer in found]
    model.eval()
    for layer in found:
        layer.train()
        layer.running_mean.zero_()  # type: ignore[union-attr]  # no value that is not finite may survive
        layer.running_var.fill_(1)  # type: ignore[union-attr]
        batches = torch.zeros_like(layer.num_batches_tracked)  # type: ignore[arg-type]
        layer.momentum, layer.num_batches_tracked = None, batches
    try:
        yield
    finally:
        for layer, momentum, tracked in kept:
            layer.momentum, layer.num_batches_tracked = momentum, tracked
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def freeze_statistics(model: nn.Module) -> Iterator[None]:
    """Within the context BatchNorm uses its running statistics and does not change them, while the
    rest trains.

    Enter it after `model.train()`; at the end the layers' former modes return.
    """
    modes = [(layer, layer.training) for layer in layers(model)]
    for layer, _ in modes:
        layer.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.train(mode)
