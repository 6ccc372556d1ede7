"""Your own images, sorted into folders by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

from fedrobust.data.dataset import Dataset, DataSource, usable_at_sites
from fedrobust.data.decoding import unreadable_file
from fedrobust.data.files import Files, is_companion, is_hidden, is_image, open_root
from fedrobust.data.labels import LabelOptions
from fedrobust.data.table import (
    ClassOrder,
    ImageOptions,
    ImageRoot,
    ImageTable,
    class_words,
    load_table,
)
from fedrobust.errors import DataError
from fedrobust.utils.counting import format_count
from fedrobust.utils.names import shown_name, stored_path
from fedrobust.utils.validation import OneOf, check_settings, flatten_groups

ALL_TEST = (
    "name a folder train, or set data.root to the folder of the split and leave it out of "
    "data.layout"
)
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
    labels: LabelOptions,
) -> DataSource:
    """A folder or zip whose sub-folders say what an image is. Every image counts as its own
    patient: use a csv where several images show one.

    Args:
        root: folder or zip of the images.
        layout: what the folders mean from the top down, e.g. site/class for
            hospital_a/melanoma/001.jpg. Further folders above these, that hold all images, count
            as wrapping.
        classes: the class folders in the wanted order; null: all, in alphabetical order.
        images: how the images are read; its fields are keys of their own.
        labels: how the names of folders become classes; its fields, too.

    Returns:
        The source; nothing is read before its `load`.

    Raises:
        ConfigError: a setting is out of its range.

    Needs:
        data.root, the folder or zip
    """
    wanted = class_words(classes)
    return DataSource(
        "image_folder",
        lambda: _load(stored_path(root), layout.split("/"), wanted, images, labels),
        lambda: (stored_path(root),),
    )


def _load(
    root: Path,
    layout: list[str],
    classes: Sequence[str] | None,
    chosen: ImageOptions,
    options: LabelOptions,
) -> Dataset:
    files = open_root(root)
    read = [name for name in files.images if name not in files.unreadable]
    wrapping = _wrapping([PurePosixPath(name).parts[:-1] for name in read], len(layout))
    names, left_out = _sort_files(files, wrapping, len(layout), chosen.on_broken == "error")
    if not names:
        raise DataError(
            f"{root}: no images; expected {'/'.join(layout)}/<image>.jpg or .png{_found(left_out)}"
        )
    columns: dict[str, list[str]] = {word: [] for word in layout}
    for name in names:
        own = PurePosixPath(name).parts[len(wrapping) : -1]
        if len(own) != len(layout):
            raise DataError(
                f"{root}: {shown_name(name)} does not lie at {'/'.join(layout)}/<image>; move it "
                "or set data.layout"
            )
        for word, folder in zip(layout, own, strict=True):
            columns[word].append(folder)
    notes = [f"all images lie in {shown_name('/'.join(wrapping))}, which counts as wrapping"]
    table = ImageTable(
        names,
        columns["class"],
        classes,
        columns.get("site"),
        None,
        columns.get("split"),
        ALL_TEST,
        notes if wrapping else (),
        missing=("",),  # nan is a name
    )
    return load_table(
        "image_folder", str(root), files, table, chosen=chosen, options=options, left_out=left_out
    )


def _wrapping(folders: Sequence[tuple[str, ...]], depth: int) -> tuple[str, ...]:
    """The folders above the layout's, if all images lie in the same ones, as in a packed folder."""
    above = {parts[:-depth] for parts in folders}
    return above.pop() if len(above) == 1 else ()


def _sort_files(
    files: Files, wrapping: tuple[str, ...], depth: int, strict: bool
) -> tuple[list[str], dict[str, str]]:
    """The names to be read as images, and all others with the reason why they are none.

    What lies where images lie is read as one, whatever it is called, unless it is a companion
    (texts, tables); elsewhere a name must end like an image. Raises DataError for what cannot be
    read, if `strict`.
    """
    names, left_out = list[str](), dict[str, str]()
    for name in files.names:
        folders = PurePosixPath(name).parts[:-1]
        placed = folders[: len(wrapping)] == wrapping and len(folders) == len(wrapping) + depth
        if is_hidden(name):
            left_out[_hidden_part(name)] = "hidden"
        elif name in files.unreadable and not placed:
            if strict:
                raise unreadable_file(files, name, files.unreadable[name])
            left_out[name] = files.unreadable[name]
        elif is_companion(name):
            left_out[name] = "no image, by its name"
        elif placed or is_image(name):
            names.append(name)
        else:
            left_out[name] = "no image, by its name, and not where images lie"
    return names, left_out


def _hidden_part(name: str) -> str:
    """The first hidden folder of a path, or the path."""
    parts = PurePosixPath(name).parts
    first = next(place for place, part in enumerate(parts) if is_hidden(part))
    return name if first == len(parts) - 1 else "/".join(parts[: first + 1]) + "/"


def _found(left_out: Mapping[str, str]) -> str:
    if not left_out:
        return ""
    name, reason = next(iter(left_out.items()))
    others = format_count(len(left_out), "other file")
    return f"; instead {others}, the first is {shown_name(name)} ({reason})"
