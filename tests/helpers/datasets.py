"""Hand-made data sets for tests."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedrobust.data import Dataset, Origins, make_dataset
from fedrobust.data.splits import complete_splits


def one_pixel_dataset(
    labels: Tensor,
    *,
    splits: Tensor | None = None,
    sites: Tensor | None = None,
    groups: Tensor | None = None,
) -> Dataset:
    """One-pixel images; the splits drawn where they are not given."""
    count, num_classes = len(labels), int(labels.max()) + 1
    own = torch.arange(count) if groups is None else groups
    split = complete_splits(splits, labels, own, torch.Generator().manual_seed(0))
    images = torch.arange(3 * count, dtype=torch.uint8).reshape(count, 3, 1, 1)
    places = [] if sites is None else [f"site {one}" for one in range(int(sites.max()) + 1)]
    names = [f"class {one}" for one in range(num_classes)]
    return make_dataset(
        "toy",
        images,
        labels,
        names,
        Origins(split, sites=sites, site_names=places or ["all"], groups=own),
    )


def picture(
    path: Path, colour: tuple[int, int, int] = (200, 100, 50), side: tuple[int, int] = (12, 10)
) -> Path:
    """A plain PNG of `side` = (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", side, colour).save(path, format="PNG")
    return path


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format=kind)
    return out.getvalue()
