"""BatchNorm in a federation: averaged running statistics are stale; these helpers re-estimate or
freeze them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedrobust.state import Layout, State, live_modules, load, read
from fedrobust.utils.images import as_unit

# of one forward pass in which statistics are taken: 512 images up to 128 px, 167 of 224 px
MOST_IMAGES, MOST_PIXELS = 512, 1 << 23


def layers(model: nn.Module) -> list[_BatchNorm]:
    """The model's BatchNorm layers that keep running statistics, without frozen ones."""
    return [
        module
        for module in live_modules(model)
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


@torch.no_grad()
def recalibrate(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the running statistics of every BatchNorm by those of `images` (N, 3, H, W), uint8 or
    unit floats, in one forward pass in eval mode.

    Each layer takes mean and unbiased variance of all that reaches it, then normalises with them:
    the statistics are those that the model itself shows on these images afterwards, and the pass
    answers as the recalibrated model does. Of more images than MOST_IMAGES, or than MOST_PIXELS
    allow, evenly spaced ones are taken. Only the running means and variances change: parameters,
    modes, momenta and `num_batches_tracked` stay. Fewer than two images have no variance between
    them and leave the model alone, as does a model without BatchNorm or with frozen BatchNorm
    alone. No randomness.

    Returns:
        The rows of the images that went through the model, int64, and its answers to them on its
        device: none where the model was left alone.
    """
    found = layers(model)
    if not found or len(images) < 2:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    most = min(MOST_IMAGES, max(2, MOST_PIXELS // max(1, images.shape[2:].numel())))
    rows = torch.arange(0, len(images), -(-len(images) // most))
    device = found[0].weight.device if found[0].weight is not None else images.device
    batch = as_unit((images if len(rows) == len(images) else images[rows]).to(device))
    with _estimating(model, found), _without_compilation():
        return rows, model(batch)


def load_and_recalibrate(
    model: nn.Module, layout: Layout, state: State, images: Tensor | None
) -> State:
    """Load a state, and re-estimate its BatchNorm statistics on images where there are some (None:
    it keeps its own; see `recalibrate`). Returns what the model then holds."""
    load(model, layout, state)
    if images is None:
        return state
    recalibrate(model, images)
    return State(state.parameters, read_buffers(model, layout))


def read_buffers(model: nn.Module, layout: Layout) -> Tensor:
    """A copy of the model's floating-point buffers, on the CPU."""
    return read(model, Layout((), layout.buffers)).buffers


@contextmanager
def _estimating(model: nn.Module, found: list[_BatchNorm]) -> Iterator[None]:
    """Eval mode, in which every BatchNorm takes the statistics of a batch before it uses them."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    hooks = [layer.register_forward_pre_hook(_take_statistics) for layer in found]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode


def _take_statistics(layer: nn.Module, inputs: tuple[Tensor]) -> None:
    mean, variance = layer.running_mean, layer.running_var
    mean.zero_()  # type: ignore[operator]  # no value that is not finite may survive
    variance.fill_(1)  # type: ignore[operator]
    torch.batch_norm_update_stats(inputs[0], mean, variance, momentum=1.0)  # type: ignore[arg-type]


def _without_compilation() -> AbstractContextManager[object]:
    """A compiled model does not see the hooks of its layers."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and its import is slow
        return nullcontext()
    eager: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return eager


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
