"""Frozen parts of a backbone: they keep their weights and statistics, and only the rest trains."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

import torch
from pydantic import Field
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedrobust.errors import ConfigError
from fedrobust.learning.adapters import adapt
from fedrobust.learning.size_limits import LARGEST
from fedrobust.state import freeze, frozen_tensors, is_frozen
from fedrobust.utils.validation import Words

# a whole number: so many last stages train
Freeze = Annotated[
    Literal["none", "backbone", "batchnorm", "adapters"] | Annotated[int, Field(ge=1, le=LARGEST)],
    Words(
        "none, backbone, batchnorm, adapters or a whole number, at least 1, of last stages that "
        "train"
    ),
]


def freeze_backbone(backbone: nn.Module, which: str | int, adapter_rank: int) -> None:
    """Freeze a part of a timm backbone in place.

    Args:
        backbone: as timm makes it.
        which: none, backbone (all of it), batchnorm (every BatchNorm layer: scale, shift and
            statistics), adapters (all of it, beside which low-rank adapters train), or how many of
            its last stages are left to train.
        adapter_rank: of the adapters.

    Raises:
        ConfigError: the backbone has no more stages than are to train, or takes no adapters.
    """
    if which == "backbone":
        freeze(backbone)
    elif which == "batchnorm":
        for module in backbone.modules():
            if isinstance(module, _BatchNorm):
                freeze(module)
    elif which == "adapters":
        adapt(backbone, adapter_rank)
    elif isinstance(which, int):
        _freeze_parameters(backbone, _early_parameters(backbone, which))


def _early_parameters(backbone: nn.Module, training: int) -> set[str]:
    """Names of the parameters before the last `training` stages."""
    stages = list_stages(backbone)
    if training >= len(stages):
        raise ConfigError(
            f"model.freeze={training}: the backbone has {len(stages)} stages; let fewer of them "
            "train, or use model.freeze=none"
        )
    return {name for stage in stages[:-training] for name in stage}


def list_stages(backbone: Any) -> list[list[str]]:
    """Names of a timm backbone's parameters, stage by stage from the images on, as timm groups
    them; a norm alone at the end is of the stage before it."""
    groups = group_parameters(backbone, backbone.group_matcher(coarse=True))
    parameters, stages = dict(backbone.named_parameters()), list[list[str]]()
    for _, names in sorted(groups.items()):
        if stages and all(parameters[name].ndim < 2 for name in names):
            stages[-1] += names
        else:
            stages.append(list(names))
    return stages


def _freeze_parameters(module: nn.Module, names: set[str], path: str = "") -> None:
    """Freeze every module all of whose parameters are named, and the named ones elsewhere."""
    own = [f"{path}{name}" for name, _ in module.named_parameters()]
    if own and names.issuperset(own):
        freeze(module)
        return
    for name, parameter in module.named_parameters(recurse=False):
        parameter.requires_grad_(f"{path}{name}" not in names)
    for name, child in module.named_children():
        _freeze_parameters(child, names, f"{path}{name}.")


def keep_frozen_in_eval_mode(model: nn.Module) -> None:
    """Set all frozen modules of a model back to eval mode."""
    for module in model.modules():
        if is_frozen(module):
            module.training = False


@torch.no_grad()
def copy_frozen(source: nn.Module, target: nn.Module) -> None:
    """Give the target the frozen tensors of the source, of which it has the same."""
    own = frozen_tensors(target)
    for name, tensor in frozen_tensors(source).items():
        own[name].copy_(tensor)


def frozen_digest(model: nn.Module) -> str:
    """SHA-256 (hexadecimal) over names, shapes and float32 values of the frozen tensors; empty
    where nothing is frozen. Two parties compute the same with equal trained parts if and only if
    their digests agree."""
    tensors = frozen_tensors(model)
    if not tensors:
        return ""
    # every change in place raises a tensor's version
    content = tuple((name, one.data_ptr(), one._version) for name, one in tensors.items())
    kept = _DIGESTS.get(model)
    if kept is None or kept[0] != content:
        kept = _DIGESTS[model] = content, _hash(tensors)
    return kept[1]


_DIGESTS = WeakKeyDictionary[nn.Module, tuple[tuple[tuple[str, int, int], ...], str]]()


def _hash(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().float().reshape(-1).numpy().astype("<f4", copy=False)
        found.update(f"{name}\n{tuple(tensor.shape)}\n".encode())
        found.update(values.data)
    return found.hexdigest()
