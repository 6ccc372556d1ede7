"""Your own images, described by a csv table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd

from fedrobust.data.dataset import Dataset, DataSource, usable_at_sites
from fedrobust.data.files import find_name, open_root
from fedrobust.data.table import (
    ClassOrder,
    ImageOptions,
    ImageRoot,
    ImageTable,
    PathOf,
    class_words,
    load_table,
    read_csv,
)
from fedrobust.utils.validation import check_settings, flatten_groups


@check_settings("data")
@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the table's columns. A column that is named otherwise than here must exist.

    Attributes:
        image: column of the images' names; must exist.
        label: column of the labels; must exist.
        site: column of the sites; may be absent.
        group: column of the patients or lesions; may be absent.
        split: column of the splits (train, validation, test); may be absent.
    """

    image: str = "image"
    label: str = "label"
    site: str = "site"
    group: str = "group"
    split: str = "split"


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
) -> DataSource:
    """A table with one row per image.

    The fields of the two groups are keys of their own: `data.size`, not `data.images.size`.

    Args:
        path: the csv file.
        root: folder or zip of the images; null: the folder of the csv file.
        classes: the labels in the wanted order; null: those that occur.
        columns: names of the columns.
        images: how the images are read.

    Returns:
        The source; nothing is read before its `load`.

    Raises:
        ConfigError: a setting is out of its range.
    """
    table = Path(path).expanduser()
    folder = table.parent if root is None else Path(root).expanduser()
    wanted = class_words(classes)
    return DataSource("csv", lambda: _load(table, folder, asdict(columns), wanted, images))


def _load(
    path: Path,
    root: Path,
    columns: dict[str, str],
    classes: tuple[str, ...] | None,
    chosen: ImageOptions,
) -> Dataset:
    own = [name for kind, name in columns.items() if name != kind]
    frame = read_csv(path, [columns["image"], columns["label"], *own])
    files = open_root(root)
    known = set(files.names)
    images = [find_name(name, str(path), known) for name in frame[columns["image"]]]
    optional = {kind: _column(frame, columns[kind]) for kind in ("site", "group", "split")}
    table = ImageTable(
        images,
        list(frame[columns["label"]]),
        classes,
        optional["site"],
        optional["group"],
        optional["split"],
    )
    return load_table("csv", str(path), files, table, chosen)


def _column(frame: pd.DataFrame, name: str) -> list[str] | None:
    return list(frame[name]) if name in frame.columns else None
