"""Model files: backbones and whole models to start from, and a run's states by tensor name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file as read_tensors
from torch import Tensor

from fedrobust.errors import ConfigError, DataError
from fedrobust.learning.adapters import NAMES
from fedrobust.state import Entries, Layout, State, flat
from fedrobust.utils import files, tensor_files

BACKBONE = "backbone."
# the name under which a run's checkpoints keep the fixed ETF beside the model's tensors
ANCHORS = "etf.anchors"


def load_file(path: str, model: Any) -> None:
    """Load `path` into a `classifier.Classifier`: a checkpoint of a whole classifier (names start
    with `backbone.`), or a timm backbone, whose own classifier is left out.

    Raises ConfigError for an unreadable file, for missing or unexpected names, for wrong shapes,
    and for a classifier that was trained towards other anchors.
    """
    tensors = read_file(path)
    if not any(name.startswith(BACKBONE) for name in tensors):
        load_backbone(path, model.backbone)
        return
    anchors = tensors.pop(ANCHORS, None)
    if (
        anchors is not None
        and model.anchors is not None
        and not torch.equal(anchors, model.anchors)
    ):
        raise ConfigError(
            f"model.checkpoint={path}: was trained towards other anchors; use its "
            "run's seed and model.dimension"
        )
    _fill(f"model.checkpoint={path}", model, tensors)


def load_backbone(path: str, backbone: Any) -> None:
    """Load `path` into a timm backbone: a file of one, or the backbone's part of a whole
    classifier. Raises ConfigError as `load_file`."""
    tensors = read_file(path)
    if any(name.startswith(BACKBONE) for name in tensors):
        _fill(
            f"model.checkpoint={path}",
            backbone,
            {
                name.removeprefix(BACKBONE): tensor
                for name, tensor in tensors.items()
                if name.startswith(BACKBONE)
            },
        )
        return
    fill_backbone(f"model.checkpoint={path}", backbone, tensors)


def fill_backbone(setting: str, backbone: Any, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors of a timm backbone, whose own classifier is left out. setting: where they come
    from, for the error line. Raises ConfigError as `load_file`."""
    own = _own_classifier(backbone)
    _fill(
        setting,
        backbone,
        {name: tensor for name, tensor in tensors.items() if name.rsplit(".", 1)[0] not in own},
    )


def read_file(path: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises ConfigError where it is not readable."""
    try:
        return read_tensors(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"model.checkpoint={path}: not a readable safetensors file "
            f"({' '.join(str(error).split())})"
        ) from error


def _own_classifier(backbone: Any) -> set[str]:
    names = (getattr(backbone, "pretrained_cfg", None) or {}).get("classifier") or ()
    return {names} if isinstance(names, str) else set(names)


def _fill(setting: str, module: Any, tensors: dict[str, Tensor]) -> None:
    wanted = module.state_dict()
    # checkpoints of runs leave counters out, and a network's own weights know no adapters
    optional = {name for name in wanted if name.endswith(("num_batches_tracked", *NAMES))}
    problems = [f"lacks {name}" for name in wanted.keys() - tensors.keys() - optional]
    problems += [f"holds an unknown {name}" for name in tensors.keys() - wanted.keys()]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted.keys() & tensors.keys()
        if tensors[name].shape != wanted[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ConfigError(f"{setting}: does not fit the model: {min(problems)}{more}")
    module.load_state_dict(tensors, strict=False)


def save_state(
    path: Path,
    layout: Layout,
    state: State,
    anchors: Tensor | None = None,
    notes: Mapping[str, str] | None = None,
    *,
    frozen: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the state's tensors under their names, beside them the frozen ones
    (`state.frozen_tensors`) and the fixed ETF (d, K), and `notes` as metadata. Raises OSError."""
    tensors = {**layout.named(state), **(frozen or {})}
    tensors |= {} if anchors is None else {ANCHORS: anchors}
    files.write(path, tensor_files.pieces(tensors, notes))


def load_state(
    path: Path, layout: Layout, frozen: Mapping[str, Tensor] | None = None
) -> tuple[State, dict[str, str]]:
    """The state and the notes of a checkpoint. frozen: the model's frozen tensors, which the file
    must hold too. Raises DataError where the file is damaged or of another model."""
    try:
        with safe_open(path, framework="pt") as opened:
            file: Any = opened  # safetensors' types are incomplete
            tensors, notes = (
                {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
                dict(file.metadata() or {}),
            )
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path}: not a readable checkpoint ({error}); delete it and run again"
        ) from error
    for name, tensor in (frozen or {}).items():
        if name not in tensors or not torch.equal(tensors.pop(name), tensor.cpu()):
            raise DataError(
                f"{path}: its frozen tensor {name} is not that of the model; it belongs to "
                "another model"
            )
    others = (
        tensors.keys() - {name for name, _ in (*layout.parameters, *layout.buffers)} - {ANCHORS}
    )
    if others:
        raise DataError(
            f"{path}: holds a tensor {min(others)} that the model has not; it belongs "
            "to another model"
        )
    return State(
        gather_vector(tensors, layout.parameters, path),
        gather_vector(tensors, layout.buffers, path),
    ), notes


def gather_vector(tensors: Mapping[str, Tensor], entries: Entries, path: Path) -> Tensor:
    """The flat vector of these entries. Raises DataError where one is missing or has another
    shape."""
    for name, shape in entries:
        if name not in tensors or tensors[name].shape != shape:
            raise DataError(
                f"{path}: holds no tensor {name} of shape {tuple(shape)}; it belongs "
                "to another model"
            )
    return flat([tensors[name] for name, _ in entries])
