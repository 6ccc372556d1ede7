"""HAM10000 (Tschandl, Rosendahl, Kittler: Scientific Data 5, 180161, 2018): dermatoscopic images of
seven kinds of skin lesion.

Two layouts are understood. The official one: HAM10000_metadata (csv or tab) and the jpg files, in
folders or in the zip files they come in. The one with sites and splits: ham10000*.csv with the
columns image_id, lesion_id, dx, site, split and ham10000*.zip. Splits never separate the images of
a lesion. The licence is CC BY-NC: non-commercial use only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from fedrobust.data.dataset import Dataset, DataSource, usable_at_sites
from fedrobust.data.files import Files, join_roots, open_root
from fedrobust.data.labels import LabelOptions
from fedrobust.data.lookup import FileLookup
from fedrobust.data.table import ImageOptions, ImageTable, PathOf, load_table
from fedrobust.data.text_table import join_tables, read_csv
from fedrobust.errors import DataError
from fedrobust.utils.counting import format_count
from fedrobust.utils.names import shown_name, stored_path
from fedrobust.utils.validation import check_settings, flatten_groups

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
ALL_TEST = "mark training images, or set data.split=drawn to have all three parts drawn"
REMEDY = "get HAM10000 from doi:10.7910/DVN/DBW86T and set data.root to its folder"


@usable_at_sites("root")
@flatten_groups
@check_settings("data")
def ham10000(
    root: Annotated[str, PathOf(REMEDY)],
    *,
    images: ImageOptions,
    labels: LabelOptions,
    split: Literal["given", "drawn"] = "given",
) -> DataSource:
    """HAM10000, its images squeezed to squares.

    Args:
        root: folder with HAM10000_metadata and the images, or with ham10000*.csv and
            ham10000*.zip; doi:10.7910/DVN/DBW86T has them.
        images: how the images are read; its fields are keys of their own.
        labels: how the labels become classes; its fields, too.
        split: given, parts that the table names stay as they are; drawn, all three are drawn in
            the ratio 7:2:1.

    Returns:
        The source; nothing is read before its `load`.

    Raises:
        ConfigError: a setting is out of its range.

    Needs:
        the files of HAM10000 in data.root

    Reference:
        Tschandl, Rosendahl, Kittler, Scientific Data 5, 2018.
    """
    return DataSource(
        "ham10000",
        lambda: _load(stored_path(root), images, labels, split),
        lambda: (stored_path(root),),
    )


def _load(root: Path, chosen: ImageOptions, options: LabelOptions, split: str) -> Dataset:
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such folder; {REMEDY}")
    tables = _tables(root)
    source = ", ".join(str(table) for table in tables)
    needed = dict.fromkeys(("image_id", "lesion_id", "dx"), REMEDY)
    found = join_tables([read_csv(table, needed) for table in tables])
    files, images = _images(root, source, found.filled(source, "image_id"))
    table = ImageTable(
        images,
        found.columns["dx"],
        CLASSES,
        found.column("site") or found.column("dataset"),
        found.columns["lesion_id"],
        found.column("split") if split == "given" else None,
        ALL_TEST,
        found.notes,
    )
    return load_table("ham10000", source, files, table, chosen=chosen, options=options)


def _tables(root: Path) -> list[Path]:
    official = [
        root / name
        for name in ("HAM10000_metadata", "HAM10000_metadata.csv", "HAM10000_metadata.tab")
    ]
    found = [path for path in official if path.is_file()]
    if len(found) > 1:
        raise DataError(f"data.root={root}: holds {found[0]} and {found[1]}; keep one of them")
    found = found or sorted(root.glob("ham10000*.csv"))
    if not found:
        raise DataError(
            f"data.root={root}: holds neither HAM10000_metadata nor ham10000*.csv; {REMEDY}"
        )
    return found


def _images(root: Path, source: str, ids: Sequence[str]) -> tuple[Files, list[str]]:
    """The files of the folder and of every HAM10000 zip in it, and the stored name of each image
    id."""
    archives = sorted(
        path
        for path in root.iterdir()
        if path.suffix == ".zip" and path.name.lower().startswith("ham10000")
    )
    parts = [open_root(root), *(open_root(path) for path in archives)]
    # of one root alone the files keep their own names
    files = join_roots(parts) if archives else parts[0]

    def show(stored: str) -> str:
        position, inner = stored.split("/", 1) if archives else ("0", stored)
        return f"{parts[int(position)].label}/{shown_name(inner)}"

    lookup = FileLookup(files, strip=1 if archives else 0, show=show)
    missing = [one for one in ids if not lookup.candidates(one)]
    if missing:
        raise DataError(
            f"{source}: {format_count(len(ids), 'image')}, {len(missing)} not below {root}, the "
            f"first is {missing[0]}.jpg; {REMEDY}"
        )
    return files, [lookup.find(one, source) for one in ids]
