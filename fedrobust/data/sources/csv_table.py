"""Your own images, described by a csv table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fedrobust.data.dataset import Dataset, DataSource
from fedrobust.data.files import find_name, open_root
from fedrobust.data.table import (
    ImageTable,
    Options,
    class_setting,
    load_table,
    options,
    path_setting,
    read_csv,
)


def csv(
    path: str,
    root: str | None = None,
    *,
    size: int = 64,
    image: str = "image",
    label: str = "label",
    site: str = "site",
    group: str = "group",
    split: str = "split",
    classes: Sequence[str] | None = None,
    max_images: int | None = None,
    on_broken: str = "error",
    seed: int = 0,
    every_class: bool = True,
    max_per_class: int | None = None,
) -> DataSource:
    """A table with one row per image. root: folder or zip of the images, the table's own folder if
    None.

    image, label, site, group, split: the columns' names; the first two must be there, the other
    three are optional. A column that you name yourself must exist. classes: the labels in the
    wanted order; None takes those that occur.
    """
    chosen = options(
        size, max_images, on_broken, seed, every_class=every_class, max_per_class=max_per_class
    )
    table = path_setting("data.path", path, "give the csv file")
    folder = (
        table.parent
        if root is None
        else path_setting("data.root", root, "give the folder or zip of the images")
    )
    wanted = class_setting(classes)
    columns = {"image": image, "label": label, "site": site, "group": group, "split": split}
    return DataSource("csv", lambda: _load(table, folder, columns, wanted, chosen))


def _load(
    path: Path, root: Path, columns: dict[str, str], classes: Sequence[str] | None, chosen: Options
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
