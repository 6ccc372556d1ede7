"""Your own images, sorted into folders by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fedrobust.data.dataset import Dataset, DataSource
from fedrobust.data.files import open_root
from fedrobust.data.table import (
    ImageTable,
    Options,
    class_setting,
    load_table,
    options,
    path_setting,
)
from fedrobust.errors import DataError
from fedrobust.utils import validation

LAYOUTS = ("class", "site/class", "split/class", "split/site/class", "site/split/class")


def image_folder(
    root: str,
    *,
    layout: str = "class",
    size: int = 64,
    classes: Sequence[str] | None = None,
    max_images: int | None = None,
    on_broken: str = "error",
    seed: int = 0,
    every_class: bool = True,
    max_per_class: int | None = None,
) -> DataSource:
    """A folder or zip whose sub-folders say what an image is. layout: what the folders mean from
    the top down, e.g. "site/class" for hospital_a/melanoma/001.jpg. Every image counts as its own
    patient: use a csv where several images show one."""
    chosen = options(
        size, max_images, on_broken, seed, every_class=every_class, max_per_class=max_per_class
    )
    validation.choice("data.layout", layout, LAYOUTS)
    folder, wanted = (
        path_setting("data.root", root, "give the folder or zip of the images"),
        class_setting(classes),
    )
    return DataSource("image_folder", lambda: _load(folder, layout.split("/"), wanted, chosen))


def _load(root: Path, layout: list[str], classes: Sequence[str] | None, chosen: Options) -> Dataset:
    files = open_root(root)
    names = files.images
    if not names:
        raise DataError(f"{root}: no images; expected {'/'.join(layout)}/<image>.jpg or .png")
    columns: dict[str, list[str]] = {word: [] for word in layout}
    for name in names:
        folders = PurePosixPath(name).parts[:-1]
        if len(folders) != len(layout):
            raise DataError(
                f"{root}: {name} does not lie at {'/'.join(layout)}/<image>; move it "
                "or set data.layout"
            )
        for word, folder in zip(layout, folders, strict=True):
            columns[word].append(folder)
    table = ImageTable(
        names, columns["class"], classes, columns.get("site"), None, columns.get("split")
    )
    return load_table("image_folder", str(root), files, table, chosen)
