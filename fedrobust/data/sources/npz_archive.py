"""A numpy archive with the keys of MedMNIST: <split>_images, <split>_labels and, optionally,
<split>_sites."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrobust.data import cache, splits
from fedrobust.data.dataset import (
    TEST,
    TRAIN,
    VALIDATION,
    Dataset,
    DataSource,
    Origins,
    make_dataset,
    usable_at_sites,
)
from fedrobust.data.decoding import VERSION
from fedrobust.data.npz_reader import NpzReader
from fedrobust.data.pictures import squeeze
from fedrobust.data.table import (
    ClassOrder,
    ImageOptions,
    ImageSize,
    PathOf,
    class_words,
    subset,
)
from fedrobust.errors import DataError, found_in
from fedrobust.utils.counting import format_count
from fedrobust.utils.names import shown_list, stored_path
from fedrobust.utils.seeding import generator
from fedrobust.utils.validation import Count, PositiveCount, check_settings

PARTS = {"train": TRAIN, "val": VALIDATION, "test": TEST}


@usable_at_sites("path")
@check_settings("data")
def npz(
    path: Annotated[str, PathOf("give the npz file")],
    *,
    size: ImageSize = 28,
    classes: ClassOrder | None = None,
    max_images: PositiveCount | None = None,
    seed: Count = 0,
    name: str = "npz",
    every_class: bool = True,
) -> DataSource:
    """Arrays of 8-bit images (n, H, W) or (n, H, W, 3), labels (n,) or (n, 1) in [0, K). A missing
    part is drawn from `train`. Every image counts as its own patient.

    Args:
        path: the npz file.
        size: side of the square images, pixels; other sizes are resized.
        classes: names of the K classes 0, 1, ...; null: the numbers.
        max_images: at most so many images, with the same mix of split, class and site; null: all.
        seed: seed of the splits and the subset; not the run's seed, so that runs share their test
            images.
        name: what reports call the data set.
        every_class: whether each class must have a training image; one hospital's own images may
            lack some.

    Returns:
        The source; nothing is read before its `load`.

    Raises:
        ConfigError: a setting is out of its range.

    Needs:
        data.path, the archive
    """
    chosen = ImageOptions(size=size, max_images=max_images, seed=seed, every_class=every_class)
    wanted = class_words(classes)
    return DataSource(
        name,
        lambda: load_npz(name, stored_path(path), wanted, chosen),
        lambda: (stored_path(path),),
    )


def load_npz(name: str, path: Path, classes: Sequence[str] | None, chosen: ImageOptions) -> Dataset:
    """The archive as a Dataset. Raises DataError naming the file and the key; pickled objects are
    never loaded."""
    try:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no regular file")
        with NpzReader(path) as archive:
            return _build(name, archive, classes=classes, chosen=chosen)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable npz file ({error})") from error


def _build(
    name: str, archive: NpzReader, *, classes: Sequence[str] | None, chosen: ImageOptions
) -> Dataset:
    path = archive.path
    parts = [part for part in PARTS if f"{part}_images" in archive.keys]
    if not parts:
        raise DataError(f"{path}: has no train_images; its keys are {shown_list(archive.keys)}")
    labels, given = _labels(archive, parts)
    sites, problem = _sites(archive, parts, given)
    with found_in(path):
        split = splits.complete_splits(
            given,
            labels,
            torch.arange(len(labels)),
            generator(chosen.seed, name, "splits"),
            "give the training images as train_images and train_labels",
        )
    everywhere = torch.zeros(len(labels), dtype=torch.int64) if sites is None else sites
    index = subset(
        labels, everywhere, split, chosen.max_images, generator(chosen.seed, name, "subset")
    )

    def fill(out: NDArray[np.uint8]) -> dict[int, str]:
        _fill(out, archive, parts, index.numpy())
        return {}

    key = ["npz", VERSION, name, chosen.size, chosen.max_images, chosen.seed, archive.sha256()]
    images, _ = cache.images(key, (len(index), 3, chosen.size, chosen.size), fill)
    names = (
        classes if classes is not None else [str(number) for number in range(int(labels.max()) + 1)]
    )
    places = None if sites is None else [str(one) for one in range(int(sites.max()) + 1)]
    with found_in(path):
        dataset = make_dataset(
            name,
            images,
            labels[index],
            names,
            Origins(
                split[index],
                sites=None if sites is None else sites[index],
                site_names=places or ["all"],
            ),
            every_class=chosen.every_class,
        )
    return replace(dataset, site_problem=problem, notes=(problem,) if problem else ())


def _labels(archive: NpzReader, parts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Labels and splits, the parts one after the other."""
    labels = [torch.from_numpy(archive.numbers(f"{part}_labels")) for part in parts]
    for part, label in zip(parts, labels, strict=True):
        archive.check_images(f"{part}_images", len(label))
    splits_of = [
        torch.full((len(label),), PARTS[part], dtype=torch.int8)
        for part, label in zip(parts, labels, strict=True)
    ]
    return torch.cat(labels), torch.cat(splits_of)


def _sites(archive: NpzReader, parts: Sequence[str], splits_N: Tensor) -> tuple[Tensor | None, str]:
    """Sites, the parts one after the other; none where a part lacks them, with the reason if others
    have them."""
    has = {part: f"{part}_sites" in archive.keys for part in parts}
    if not all(has.values()):
        given = [f"{part}_sites" for part in parts if has[part]]
        lacking = [f"{part}_sites" for part in parts if not has[part]]
        problem = f"{archive.path} has {', '.join(given)} but no {', '.join(lacking)}"
        return None, f"{problem}, so that no site is known" if given else ""
    sites = [torch.from_numpy(archive.numbers(f"{part}_sites")) for part in parts]
    for part, site in zip(parts, sites, strict=True):
        labels = int((splits_N == PARTS[part]).sum())
        if labels != len(site):
            raise DataError(
                f"{archive.path}: {part}_sites has {format_count(len(site), 'row')}, "
                f"{part}_labels {labels}"
            )
    return torch.cat(sites), ""


def _fill(
    out: NDArray[np.uint8], archive: NpzReader, parts: Sequence[str], index: NDArray[np.int64]
) -> None:
    """The chosen rows, in their order."""
    place, row = 0, 0
    for part in parts:
        for one in archive.images(f"{part}_images"):
            if place < len(index) and index[place] == row:
                colour = one if one.ndim == 3 else one[..., None]
                colour = np.broadcast_to(colour, (*one.shape[:2], 3))
                out[place] = squeeze(np.ascontiguousarray(colour), out.shape[-1])
                place += 1
            row += 1
