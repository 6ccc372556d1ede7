"""A trained model as a file for other programs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedrobust.errors import ConfigError
from fedrobust.studies.trained_model import TrainedModel

FORMS = {"onnx": ".onnx", "timm": "_timm.safetensors"}  # how the usual names end


def export_model(model: TrainedModel, form: str, path: Path, name: str = "model") -> Path:
    """Write the model.

    Args:
        model: what is written.
        form: onnx or timm (see `python_api.Run.export`).
        path: of the file, or an existing folder for a file of the form's usual name.
        name: with which the usual name begins.

    Returns:
        The path of the file.

    Raises:
        ConfigError: the form is unknown, the extra `onnx` is missing, or the model is no single
            timm backbone.
    """
    if form not in FORMS:
        raise ConfigError(f"form={form}: must be one of {', '.join(FORMS)}")
    place = path / f"{name}{FORMS[form]}" if path.is_dir() else path
    (_export_onnx if form == "onnx" else _export_timm)(model, place)
    return place


class _Shares(nn.Module):
    """Floats in [0, 1] to probabilities, without the choice of a type."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.classifier = model.classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.probabilities(self.classifier(images))


def _export_onnx(model: TrainedModel, path: Path) -> None:
    if missing := [name for name in ("onnx", "onnxscript") if not importlib.util.find_spec(name)]:
        raise ConfigError(
            f"form=onnx: needs the package {missing[0]}; pip install 'fedrobust[onnx]'"
        )
    size = model.image_size
    images = torch.zeros(2, 3, size, size)
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        _Shares(model).eval(),
        (images,),
        str(path),
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    import onnx

    written = onnx.load(str(path))
    entry = written.metadata_props.add()
    entry.key, entry.value = "class_names", json.dumps(model.class_names)
    onnx.save(written, str(path))


def _export_timm(model: TrainedModel, path: Path) -> None:
    backbone = model.classifier.backbone
    if getattr(backbone, "pretrained_cfg", None) is None:
        raise ConfigError("form=timm: the model is no single timm backbone; use form=onnx")
    tensors = {name: one.contiguous() for name, one in backbone.state_dict().items()}
    save_file(tensors, path, {"format": "pt", "class_names": json.dumps(model.class_names)})
