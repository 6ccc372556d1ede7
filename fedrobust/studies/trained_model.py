"""A run's trained model as a torch module that takes any image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fedrobust.data.pictures import squeeze
from fedrobust.errors import DataError
from fedrobust.experiment.factories import build_group
from fedrobust.experiment.own_choices import check_plugins, foreign_packages
from fedrobust.learning.classifier import Classifier, ModelFactory
from fedrobust.learning.model_files import ANCHORS, load_file
from fedrobust.reporting.filenames import BEST_MODEL, MANIFEST, MODEL
from fedrobust.utils.images import as_unit
from fedrobust.utils.plugins import PLUGINS
from fedrobust.utils.seeding import generator


class TrainedModel(nn.Module):
    """Images -> class probabilities.

    Attributes:
        classifier: the trained network, in eval mode.
        class_names: names of the K classes, in the order of the probabilities.
        image_size: side in pixels of the square images that it was trained on.
    """

    def __init__(self, classifier: Classifier, class_names: Sequence[str], image_size: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.class_names = tuple(class_names)
        self.image_size = image_size
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Class probabilities.

        Args:
            images: (B, 3, S, S) with S = `image_size`, uint8 or floats in [0, 1]; `preprocess`
                makes one of a picture.

        Returns:
            (B, K) float32.
        """
        return self.classifier.probabilities(self.classifier(as_unit(images)))

    def preprocess(self, picture: Image.Image | NDArray[np.uint8]) -> Tensor:
        """A picture as the training images were prepared: RGB, squeezed to a square.

        Args:
            picture: of Pillow, or uint8 (H, W, 3).

        Returns:
            (3, S, S) uint8.
        """
        if isinstance(picture, Image.Image):
            picture = np.asarray(picture.convert("RGB"))
        return torch.from_numpy(np.array(squeeze(picture, self.image_size)))

    @torch.no_grad()
    def classify(self, picture: Image.Image | NDArray[np.uint8]) -> dict[str, float]:
        """{class name: probability} of one picture (see `preprocess`), the likeliest first."""
        device = next(self.parameters()).device
        [shares] = self(self.preprocess(picture)[None].to(device)).tolist()
        found = dict(zip(self.class_names, shares, strict=True))
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def load_model(
    folder: Path,
    manifest: Mapping[str, Any],
    plugins: Sequence[str] = (),
    *,
    best: bool = False,
) -> TrainedModel:
    """The model of a finished run, on the CPU.

    Args:
        folder: output folder of the run.
        manifest: of that run.
        plugins: packages besides this one in which its factory may lie.
        best: that of the best round instead of the last one.

    Raises:
        DataError: the model's file is missing, damaged or of another model.
        ConfigError: the run's settings of the model are not those of this version, or need a
            plug-in that is not named.
    """
    path = folder / (BEST_MODEL if best else MODEL)
    if best and not path.is_file():
        raise DataError(
            f"{path}: no such file; only runs with evaluation.best_metric=... keep the best model"
        )
    classes, anchors = _notes(path)
    size = int(manifest["data"].get("image_size") or manifest["config"]["data"]["size"])
    config = manifest["config"]
    written = {"model": dict(config["model"])}
    needed = sorted(foreign_packages(written))
    check_plugins({PLUGINS: needed}, plugins, folder / MANIFEST)
    factory = build_group({**written, PLUGINS: needed}, "model")
    assert isinstance(factory, ModelFactory)
    built = factory.untrained().build(len(classes), anchors, generator(0, "loaded"))
    load_file(str(path), built)
    return TrainedModel(built, classes, size)


def _notes(path: Path) -> tuple[list[str], Tensor | None]:
    """Class names and the fixed ETF of a model's file. Raises DataError."""
    try:
        with safe_open(path, framework="pt") as opened:
            file: Any = opened  # safetensors' types are incomplete
            names = (file.metadata() or {}).get("class_names", "")
            anchors = file.get_tensor(ANCHORS) if ANCHORS in file.keys() else None  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path}: no readable model ({error}); give the output folder of a finished run"
        ) from error
    if not names:
        raise DataError(f"{path}: names no classes; give the model of a finished run")
    return names.split("|"), anchors
