"""Your own images, described by a csv table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from fedrobust.data.dataset import Dataset, DataSource, usable_at_sites
from fedrobust.data.files import open_root
from fedrobust.data.labels import LabelOptions
from fedrobust.data.lookup import FileLookup
from fedrobust.data.table import (
    ClassOrder,
    ImageOptions,
    ImageRoot,
    ImageTable,
    PathOf,
    class_words,
    load_table,
)
from fedrobust.data.text_table import read_csv
from fedrobust.utils.names import clean_name, stored_path
from fedrobust.utils.validation import check_settings, flatten_groups


@check_settings("data")
@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the table's columns. A column that is named otherwise than here must exist.

    Attributes:
        image: column of the images' names; must exist.
        label: column of the labels; must exist.
        site: column of the sites; may be absent; null: not read.
        group: column of the patients or lesions; may be absent; null: not read.
        split: column of the splits (train, validation, test); may be absent; null: not read, so
            that all three are drawn.
    """

    image: str = "image"
    label: str = "label"
    site: str | None = "site"
    group: str | None = "group"
    split: str | None = "split"


# remedies where a column is not there, and where no split is train
MISSING = {
    "image": "name the one of the images' names: data.image=<column>",
    "label": "name the one of the classes: data.label=<column>",
}
ALL_TEST = "mark training images, or set data.split=null to have all three parts drawn"


@usable_at_sites("path")
@flatten_groups
@check_settings("data")
def csv(
    path: Annotated[str, PathOf("give the csv file")],
    root: ImageRoot | None = None,
    *,
    classes: ClassOrder | None = None,
    columns: Columns,
    images: ImageOptions,
    labels: LabelOptions,
) -> DataSource:
    """A table with one row per image.

    The fields of the three groups are keys of their own: `data.size`, not `data.images.size`.

    Args:
        path: the csv file.
        root: folder or zip of the images; null: the folder of the csv file.
        classes: the labels in the wanted order; null: those that occur.
        columns: names of the columns.
        images: how the images are read.
        labels: how the labels become classes.

    Returns:
        The source; nothing is read before its `load`.

    Raises:
        ConfigError: a setting is out of its range.

    Needs:
        data.path, the table
    """
    wanted = class_words(classes)
    return DataSource(
        "csv",
        lambda: _load(path, root, columns, wanted, chosen=images, options=labels),
        lambda: (stored_path(path), _root(path, root)),
    )


def _root(path: str, root: str | None) -> Path:
    """The folder or zip of the images."""
    return stored_path(path).parent if root is None else stored_path(root)


def _load(
    path: str,
    root: str | None,
    columns: Columns,
    classes: tuple[str, ...] | None,
    *,
    chosen: ImageOptions,
    options: LabelOptions,
) -> Dataset:
    names = {kind: name and clean_name(name) for kind, name in asdict(columns).items()}
    image, label = clean_name(columns.image), clean_name(columns.label)
    file = stored_path(path)
    found = read_csv(file, dict(_needed(names)))
    files = open_root(_root(path, root))
    lookup = FileLookup(files)
    table = ImageTable(
        [lookup.find(name, str(file)) for name in found.filled(str(file), image)],
        found.columns[label],
        classes,
        found.column(names["site"]),
        found.column(names["group"]),
        found.column(names["split"]),
        ALL_TEST,
        found.notes,
    )
    return load_table("csv", str(file), files, table, chosen=chosen, options=options)


def _needed(names: dict[str, str | None]) -> Iterator[tuple[str, str]]:
    """(column, remedy) of those that must exist."""
    for kind, name in names.items():
        if name is not None and (kind in MISSING or name != kind):
            yield name, MISSING.get(kind, f"set data.{kind} to one of them, or leave it out")
