"""From a table of files with labels to a Dataset: the part that all sources of image files
share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from torch import Generator, Tensor

from fedrobust.data import splits
from fedrobust.data.apportionment import largest_remainder
from fedrobust.data.dataset import (
    MOST_KINDS,
    TEST,
    TRAIN,
    VALIDATION,
    Dataset,
    Origins,
    make_dataset,
)
from fedrobust.data.decoding import read_images
from fedrobust.data.files import Files
from fedrobust.data.labels import MISSING, LabelOptions, clean_column, read_labels
from fedrobust.data.splits import NO_TRAIN
from fedrobust.errors import ConfigError, DataError, found_in
from fedrobust.utils.names import clean_name, shown_name
from fedrobust.utils.seeding import generator
from fedrobust.utils.validation import Count, PositiveCount, Words, check_settings

SPLIT_WORDS = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "test": TEST,
    "testing": TEST,
}


ImageSize = Annotated[int, Field(ge=8, le=1024)]  # side of the square images in pixels


def _check_window(value: Sequence[float]) -> Sequence[float]:
    if len(value) != 2 or value[1] <= 1:
        raise ValueError("no window")
    return value


Window = Annotated[
    Sequence[float],
    AfterValidator(_check_window),
    Words("a list of two numbers, centre and width, the width above 1"),
]


@check_settings("data")
@dataclass(frozen=True, slots=True)
class ImageOptions:
    """Reading options of a source's images.

    Attributes:
        size: side of the square images, pixels.
        max_images: at most so many images, with the same mix of split, class and site; null: all.
        max_per_class: at most so many images of each class, with the same mix of split and site;
            null: all.
        on_broken: whether an unreadable image is an error, or is left out and reported.
        seed: seed of the splits and the subset; not the run's seed, so that runs share their test
            images.
        every_class: whether each class must have a training image; one hospital's own images may
            lack some.
        bits: significant bits of 16-bit files, whose values end at 2^bits - 1; null: 16.
        window: centre and width of the grey values of DICOM files, after their rescale (Hounsfield
            units in a CT); null: those in the files.
    """

    size: ImageSize = 64
    max_images: PositiveCount | None = None
    max_per_class: PositiveCount | None = None
    on_broken: Literal["error", "skip"] = "error"
    seed: Count = 0
    every_class: bool = True
    bits: Annotated[int, Field(ge=8, le=16)] | None = None
    window: Window | None = None


# for the shell, which takes one pair of quotes off, and for the reader of settings
QUOTE = "a name such as 2019, true, null or [a] is quoted twice: '\"2019\"'"


@dataclass(frozen=True, slots=True)
class PathOf:
    """Marks a text that must be a path, with what to do where it is missing: `Annotated[str,
    PathOf("give the csv file")]`."""

    remedy: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def _check(self, value: Any) -> Any:
        if not isinstance(value, (str, Path)) or str(value) == "":
            remedy = self.remedy if value == "" else f"{self.remedy}; {QUOTE}"
            raise PydanticCustomError("path_of", "a path; {remedy}", {"remedy": remedy})
        return value


ImageRoot = Annotated[str, PathOf("give the folder or zip of the images")]


def _check_class_names(value: Sequence[Any]) -> Sequence[Any]:
    words = [clean_name(str(word)) for word in value]
    if isinstance(value, str) or len(words) < 2 or len(set(words)) < len(words):
        raise ValueError("too few, or one twice")
    if any(shown_name(word) != word for word in words):
        raise ValueError("cannot be shown")
    return value


ClassOrder = Annotated[
    Sequence[Any],
    AfterValidator(_check_class_names),
    Words("a list of two or more different class names, without control signs"),
]


def class_words(classes: ClassOrder | None) -> tuple[str, ...] | None:
    """The wanted classes as words: a configuration may give numbers."""
    return None if classes is None else tuple(clean_name(str(one)) for one in classes)


@dataclass(frozen=True, slots=True)
class ImageTable:
    """One row per image, as text. images: stored names in `Files`; sites, groups, splits: None
    where the source has none. classes: the wanted classes in order; None takes the labels that
    occur. remedy: what to do where no split is train. notes: what was found in reading. missing:
    words that are no label."""

    images: Sequence[str]
    labels: Sequence[str]
    classes: Sequence[str] | None = None
    sites: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    splits: Sequence[str] | None = None
    remedy: str = NO_TRAIN
    notes: Sequence[str] = ()
    missing: Collection[str] = MISSING
    draw_by_site: bool = False
    keep_groups: bool = True


@dataclass(frozen=True, slots=True)
class EncodedTable:
    """A table as numbers, its parts drawn. table: the rows that have a label, cleaned. classes: all
    in order. labels, sites, groups, splits: (N,), as in `Dataset`. notes: what was changed."""

    table: ImageTable
    classes: Sequence[str]
    labels: Tensor
    sites: Tensor
    site_names: Sequence[str]
    groups: Tensor
    splits: Tensor
    notes: Sequence[str]


def encode_table(
    name: str, source: str, table: ImageTable, seed: int, options: LabelOptions
) -> EncodedTable:
    """Labels, sites and groups as numbers, and the parts that are missing drawn.

    Args:
        name: of the data set, which decides what is drawn, as the seed does.
        source: the table, for errors.
        table: its rows.
        seed: of the parts.
        options: how labels become classes.

    Raises:
        DataError: a cell is missing or wrong; see docs/data.md.
    """
    _refuse_twice(source, table.images)
    table, notes = _clean(source, table)
    labels = read_labels(
        source, table.images, table.labels, table.classes, options, missing=table.missing
    )
    _refuse_many(source, len(labels.classes))
    table = replace(take_rows(table, labels.rows), labels=labels.words)
    labels_N = _codes(labels.words, labels.classes)
    _refuse_empty(source, "site", table.images, table.sites)
    _refuse_empty(source, "group", table.images, table.groups)
    sites, site_names = _encode(table.sites if table.sites is not None else ["all"] * len(labels_N))
    groups, group_names = (
        _encode(table.groups) if table.groups is not None else (torch.arange(len(labels_N)), ())
    )
    given = None if table.splits is None else _encode_splits(source, table)
    if given is not None:
        _refuse_straddling(source, groups, group_names, given)
    drawn_N = labels_N + sites * len(labels.classes) if table.draw_by_site else labels_N
    with found_in(source):
        split = splits.complete_splits(
            given, drawn_N, groups, generator(seed, name, "splits"), table.remedy
        )
    if not table.keep_groups:
        groups = torch.arange(len(labels_N))
    said = (*table.notes, *notes, *labels.notes)
    return EncodedTable(table, labels.classes, labels_N, sites, site_names, groups, split, said)


def load_table(
    name: str,
    source: str,
    files: Files,
    table: ImageTable,
    *,
    chosen: ImageOptions,
    options: LabelOptions,
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> Dataset:
    """Encode, split, draw the subset, decode, and drop what could not be read. `source` names the
    table in errors; `left_out` are files that are not in the table, with the reasons."""
    encoded = encode_table(name, source, table, chosen.seed, options)
    index = chosen_rows(
        encoded.labels,
        encoded.sites,
        encoded.splits,
        chosen,
        generator(chosen.seed, name, "subset"),
    )
    images, kept, skipped = read_images(
        files,
        [encoded.table.images[row] for row in index.tolist()],
        chosen.size,
        on_broken=chosen.on_broken,
        bits=chosen.bits,
        window=chosen.window,
    )
    index = index[kept]
    with found_in(source):
        dataset = make_dataset(
            name,
            images,
            encoded.labels[index],
            encoded.classes,
            Origins(
                encoded.splits[index],
                sites=encoded.sites[index],
                site_names=encoded.site_names,
                groups=encoded.groups[index],
            ),
            skipped={**unnamed_images(files, table), **left_out, **skipped},
            every_class=chosen.every_class,
        )
    return replace(dataset, notes=tuple(encoded.notes))


def _clean(source: str, table: ImageTable) -> tuple[ImageTable, list[str]]:
    """The table with one spelling of each word, and notes of what was changed."""
    notes: list[str] = []
    cleaned: dict[str, Any] = {}
    for kind in ("label", "site", "group", "split"):
        words: Sequence[str] | None = getattr(table, f"{kind}s")
        if words is not None:
            cleaned[f"{kind}s"], said = clean_column(source, kind, words)
            notes += said
    return replace(table, **cleaned), notes


def take_rows(table: ImageTable, rows: Sequence[int]) -> ImageTable:
    """The same table with these rows only."""
    columns: dict[str, Any] = {
        name: [words[row] for row in rows]
        for name in ("images", "labels", "sites", "groups", "splits")
        if (words := getattr(table, name)) is not None
    }
    return replace(table, **columns)


def unnamed_images(files: Files, table: ImageTable) -> dict[str, str]:
    """The images that no row of the table names, with the reason."""
    named = set(table.images)
    return {name: "no row of the table names it" for name in files.images if name not in named}


def chosen_rows(
    labels_N: Tensor, sites_N: Tensor, splits_N: Tensor, chosen: ImageOptions, generator: Generator
) -> Tensor:
    """Sorted rows of the images to read: of each class no more than `max_per_class`, of these no
    more than `max_images`."""
    rows = torch.arange(len(labels_N))
    if chosen.max_per_class is not None:
        classes = [rows[labels_N == label] for label in sorted(set(labels_N.tolist()))]
        kept = [
            own[
                subset(
                    labels_N[own],
                    sites_N[own],
                    splits_N[own],
                    chosen.max_per_class,
                    generator,
                    key="max_per_class",
                )
            ]
            for own in classes
        ]
        rows = torch.cat(kept).sort().values
    return rows[subset(labels_N[rows], sites_N[rows], splits_N[rows], chosen.max_images, generator)]


def subset(
    labels_N: Tensor,
    sites_N: Tensor,
    splits_N: Tensor,
    max_images: int | None,
    generator: Generator,
    *,
    key: str = "max_images",
) -> Tensor:
    """Sorted rows of a random subset with the same mix of split, class and site (largest remainder,
    at least one image of each kind).

    Raises ConfigError, which names the `key`, when there are more kinds than `max_images`.
    """
    if max_images is None or max_images >= len(labels_N):
        return torch.arange(len(labels_N))
    kinds = torch.stack([splits_N.to(torch.int64), labels_N, sites_N])
    kind_n, sizes = torch.unique(kinds, dim=1, return_inverse=True, return_counts=True)[1:]
    if max_images < len(sizes):
        raise ConfigError(
            f"data.{key}={max_images}: there are {len(sizes)} kinds of split x class "
            f"x site; try {3 * len(sizes)}"
        )
    wanted = largest_remainder(max_images, sizes.numpy().astype(np.float64))
    for kind in np.flatnonzero(wanted == 0):
        wanted[kind] = 1
        wanted[wanted.argmax()] -= 1
    shuffled = torch.randperm(len(labels_N), generator=generator)
    parts = [
        shuffled[kind_n[shuffled] == kind][:count] for kind, count in enumerate(wanted.tolist())
    ]
    return torch.cat(parts).sort().values


def _encode(words: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Positions among the distinct words in alphabetical order, and those words."""
    names, codes = np.unique(np.asarray(words, dtype=str), return_inverse=True)
    return torch.from_numpy(codes.astype(np.int64)), tuple(str(one) for one in names)


def _codes(words: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Labels as positions in the classes."""
    place = {word: position for position, word in enumerate(classes)}
    return torch.tensor([place[word] for word in words])


def _encode_splits(source: str, table: ImageTable) -> Tensor:
    for image, word in zip(table.images, table.splits or (), strict=True):
        if word.lower() not in SPLIT_WORDS:
            raise DataError(
                f"{source}: image {shown_name(image)} has the split '{word}'; use train, "
                "validation or test"
            )
    return torch.tensor(
        [SPLIT_WORDS[word.lower()] for word in table.splits or ()], dtype=torch.int8
    )


def _refuse_many(source: str, classes: int) -> None:
    if classes > MOST_KINDS:
        raise DataError(
            f"{source}: {classes} different labels, more than {MOST_KINDS} classes; name the "
            "column of the labels"
        )


def _refuse_twice(source: str, images: Sequence[str]) -> None:
    seen: set[str] = set()
    for image in images:
        if image in seen:
            raise DataError(
                f"{source}: image {shown_name(image)} is listed twice; keep one row per image"
            )
        seen.add(image)


def _refuse_empty(
    source: str, column: str, images: Sequence[str], words: Sequence[str] | None
) -> None:
    """An empty cell would silently make one hospital or one patient of unrelated images."""
    for image, word in zip(images, words or (), strict=words is not None):
        if not word:
            raise DataError(
                f"{source}: image {shown_name(image)} has no {column}; fill the cell, or leave "
                "the column out"
            )


def _refuse_straddling(source: str, groups: Tensor, names: Sequence[str], given: Tensor) -> None:
    pairs = torch.unique(torch.stack([groups, given.to(torch.int64)]), dim=1)[0]
    values, counts = torch.unique(pairs, return_counts=True)
    for group in values[counts > 1].tolist():
        word = names[group] if names else group
        raise DataError(
            f"{source}: group {word} lies in more than one split; give all its images "
            "one split, or leave the split out"
        )
