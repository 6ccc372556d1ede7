"""A client's own model: tensors that it keeps, by name; all others are the global model's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedrobust.learning import batchnorm
from fedrobust.state import Layout

LAST = "last."  # the layer below the scores, or below the anchors of an ETF head


def state_names(model: nn.Module) -> tuple[str, ...]:
    """All tensors that travel: trainable parameters and BatchNorm statistics."""
    layout = Layout.of(model)
    return tuple(name for name, _ in (*layout.parameters, *layout.buffers))


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Those of the last layer: of an ETF head the projection below the fixed anchors."""
    return tuple(name for name in state_names(model) if name.startswith(LAST))


def batchnorm_names(model: nn.Module) -> tuple[str, ...]:
    """Those of BatchNorm layers: weights, biases and running statistics."""
    found = {id(layer) for layer in batchnorm.layers(model)}
    prefixes = {name for name, module in model.named_modules() if id(module) in found}
    return tuple(name for name in state_names(model) if name.rpartition(".")[0] in prefixes)


def read_named(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of these tensors, where the model lies."""
    tensors = _tensors(model)
    return {name: tensors[name].detach().clone() for name in names}


@torch.no_grad()
def write_named(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy these values into the model's tensors, in place.

    Raises ValueError for a name that the model does not have, or another shape.
    """
    tensors = _tensors(model)
    for name, value in values.items():
        if name not in tensors or tensors[name].shape != value.shape:
            raise ValueError(f"{name} {tuple(value.shape)} is no tensor of this model")
        tensors[name].copy_(value)


@contextmanager
def holding(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the context the model holds these values; at the end its former ones return."""
    before = read_named(model, values)
    write_named(model, values)
    try:
        yield
    finally:
        write_named(model, before)


@contextmanager
def training_only(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Within the context only these of the trainable parameters have gradients."""
    wanted = set(names)
    still = [
        one for name, one in model.named_parameters() if one.requires_grad and name not in wanted
    ]
    for one in still:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in still:
            one.requires_grad_(True)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
