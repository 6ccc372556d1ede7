"""Your own images, sorted into folders by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

from fedrobust.data.dataset import Dataset, DataSource, usable_at_sites
from fedrobust.data.files import open_root
from fedrobust.data.table import (
    ClassOrder,
    ImageOptions,
    ImageRoot,
    ImageTable,
    class_words,
    load_table,
)
from fedrobust.errors import DataError
from fedrobust.utils.validation import OneOf, check_settings, flatten_groups

LAYOUTS = ("class", "site/class", "split/class", "split/site/class", "site/split/class")


@usable_at_sites("root")
@flatten_groups
@check_settings("data")
def image_folder(
    root: ImageRoot,
    *,
    layout: Annotated[str, OneOf(LAYOUTS)] = "class",
    classes: ClassOrder | None = None,
    images: ImageOptions,
) -> DataSource:
    """A folder or zip whose sub-folders say what an image is. Every image counts as its own
    patient: use a csv where several images show one.

    Args:
        root: folder or zip of the images.
        layout: what the folders mean from the top down, e.g. site/class for
            hospital_a/melanoma/001.jpg.
        classes: the class folders in the wanted order; null: all, in alphabetical order.
        images: how the images are read; its fields are keys of their own.

    Returns:
        The source; nothing is read before its `load`.

    Raises:
        ConfigError: a setting is out of its range.
    """
    folder, wanted = Path(root).expanduser(), class_words(classes)
    return DataSource("image_folder", lambda: _load(folder, layout.split("/"), wanted, images))


def _load(
    root: Path, layout: list[str], classes: Sequence[str] | None, chosen: ImageOptions
) -> Dataset:
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
