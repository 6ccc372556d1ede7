"""One labelled set of images with what federated learning must know of each: its site, its patient
or lesion, its split."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor

from fedrobust.errors import DataError
from fedrobust.types import Samples
from fedrobust.utils.names import shown_name

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = ("train", "validation", "test")
MOST_KINDS = 10_000  # classes or sites of a data set


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images and their labels.

    images: (N, 3, H, W) uint8, often a memory map. labels: (N,) int64 in [0, K). sites: (N,) int64
    positions in `site_names`. groups: (N,) int64, one number per patient or lesion (one per image
    where unknown); no group lies in two splits. splits: (N,) int8, 0 train, 1 validation, 2 test.
    skipped: files of the data folder that are left out, with the reasons. digest: SHA-256 over
    images, labels, sites, groups and splits. notes: what was changed or left out in reading, one
    line each. site_problem: why the sites that the source names cannot be used; empty where they
    can.
    """

    name: str
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    class_names: tuple[str, ...]
    sites: Tensor = field(repr=False)
    site_names: tuple[str, ...]
    groups: Tensor = field(repr=False)
    splits: Tensor = field(repr=False)
    skipped: Mapping[str, str]
    digest: str
    notes: tuple[str, ...] = ()
    site_problem: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def samples(self, index: Tensor) -> Samples:
        """The images and labels of these rows (copies)."""
        return Samples(self.images[index], self.labels[index])


@dataclass(frozen=True, slots=True)
class DataSource:
    """A named way to a data set; `load` reads it (or its cache), the same settings and files give
    the same digest. places: the files and folders that it reads; none where images are drawn."""

    name: str
    load: Callable[[], Dataset]
    places: Callable[[], Sequence[Path]] = tuple


SITE_PLACE = "__site_place__"
Factory = TypeVar("Factory", bound=Callable[..., DataSource])


def usable_at_sites(place: str) -> Callable[[Factory], Factory]:
    """Decorator (above all others) for the factory of a source that a real site may read its own
    images with: the name of the factory becomes one of `data-format`.

    Args:
        place: its parameter that names the file or folder of the images.

    Raises:
        TypeError: the factory lacks that parameter, `size` or `every_class`, which a site needs.
    """

    def decorate(factory: Factory) -> Factory:
        there = inspect.signature(factory).parameters
        if missing := [name for name in (place, "size", "every_class") if name not in there]:
            raise TypeError(f"{factory.__name__}: a site needs the parameter {missing[0]}")
        setattr(factory, SITE_PLACE, place)
        return factory

    return decorate


@dataclass(frozen=True, slots=True)
class Origins:
    """Origin and part of the data set of each of N images.

    Attributes:
        splits: (N,) 0 train, 1 validation, 2 test.
        sites: (N,) positions in `site_names`; None: all images share one.
        site_names: names of the sites.
        groups: (N,) one number per patient or lesion; None: every image is its own.
    """

    splits: Tensor
    sites: Tensor | None = None
    site_names: Sequence[str] = ("all",)
    groups: Tensor | None = None


def make_dataset(
    name: str,
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    origins: Origins,
    *,
    skipped: Mapping[str, str] = MappingProxyType({}),
    every_class: bool = True,
) -> Dataset:
    """A checked Dataset with its digest.

    Args:
        name: what reports call it.
        images: (N, 3, H, W) uint8.
        labels: (N,) in [0, K).
        class_names: the K names.
        origins: splits, sites and groups of the images.
        skipped: files of the data folder that are left out, with the reasons.
        every_class: whether each class must have a training image.

    Returns:
        The data set.

    Raises:
        DataError: a label without a class name, a class without training images (if
            `every_class`), a group in two splits, an empty split; the caller puts the file before
            it (`errors.found_in`).
    """
    count = len(labels)
    sites, groups = origins.sites, origins.groups
    sites = torch.zeros(count, dtype=torch.int64) if sites is None else sites.to(torch.int64)
    groups = torch.arange(count) if groups is None else groups.to(torch.int64)
    labels, splits = labels.to(torch.int64), origins.splits.to(torch.int8)
    _check(labels, tuple(class_names), groups, splits)
    if every_class:
        _check_classes(labels, tuple(class_names), splits)
    digest = _digest(images, labels, sites, groups, splits)
    return Dataset(
        name,
        images,
        labels,
        tuple(class_names),
        sites,
        tuple(origins.site_names),
        groups,
        splits,
        {shown_name(name): reason for name, reason in skipped.items()},
        digest,
    )


def _check(labels: Tensor, class_names: tuple[str, ...], groups: Tensor, splits: Tensor) -> None:
    if len(labels) == 0:
        raise DataError("no images")
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise DataError(
            f"label {int(labels.min())}..{int(labels.max())} outside the {len(class_names)} classes"
        )
    for split, word in enumerate(SPLITS):
        if not (splits == split).any():
            raise DataError(f"no {word} images; leave the split out to have 7:2:1 drawn")
    pairs = torch.unique(torch.stack([groups, splits.to(torch.int64)]), dim=1)[0]
    values, counts = torch.unique(pairs, return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"group {int(values[counts > 1][0])} lies in more than one split; give "
            "every group one split"
        )


def _check_classes(labels: Tensor, class_names: tuple[str, ...], splits: Tensor) -> None:
    trained = torch.bincount(labels[splits == TRAIN], minlength=len(class_names))
    for position in (trained == 0).nonzero().reshape(-1).tolist():
        raise DataError(
            f"class {class_names[position]} has no training image; remove the class or add images"
        )


def _digest(*tensors: Tensor) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        sha.update(tensor.contiguous().numpy().data)
    return sha.hexdigest()
