"""HAM10000 (Tschandl, Rosendahl, Kittler: Scientific Data 5, 180161, 2018): dermatoscopic images of
seven kinds of skin lesion.

Two layouts are understood. The official one: HAM10000_metadata (csv or tab) and the jpg files, in
folders or in the zip files they come in. The one with sites and splits: ham10000*.csv with the
columns image_id, lesion_id, dx, site, split and ham10000*.zip. Splits never separate the images of
a lesion. The licence is CC BY-NC: non-commercial use only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from fedrobust.data.dataset import DataSource, usable_at_sites
from fedrobust.data.files import Files, join_roots, open_root
from fedrobust.data.labels import LabelOptions
from fedrobust.data.lookup import FileLookup
from fedrobust.data.named_images import NamedImages, load_named
from fedrobust.data.table import ImageOptions, ImageTable, PathOf
from fedrobust.data.text_table import join_tables, read_csv
from fedrobust.errors import DataError
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
        lambda: load_named("ham10000", read_ham10000(root, split), images, options=labels),
        lambda: (stored_path(root),),
    )


@check_settings("data")
def read_ham10000(root: str | Path, split: Literal["given", "drawn"] = "given") -> NamedImages:
    """Its table and folder; for the arguments see `ham10000`. Raises DataError."""
    place = stored_path(root)
    if not place.is_dir():
        raise DataError(f"data.root={place}: no such folder; {REMEDY}")
    tables = _tables(place)
    source = ", ".join(str(table) for table in tables)
    needed = dict.fromkeys(("image_id", "lesion_id", "dx"), REMEDY)
    found = join_tables([read_csv(table, needed) for table in tables])
    table = ImageTable(
        found.filled(source, "image_id"),
        found.columns["dx"],
        CLASSES,
        found.column("site") or found.column("dataset"),
        found.columns["lesion_id"],
        found.column("split") if split == "given" else None,
        ALL_TEST,
        found.notes,
    )
    files, lookup, joined = _open(place)
    return NamedImages(
        source, str(place), files, lookup, table, REMEDY, joined=joined, can_skip=False
    )


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


def _open(root: Path) -> tuple[Files, FileLookup, bool]:
    """The files of the folder and of every HAM10000 zip in it, and whether there are zips."""
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

    return files, FileLookup(files, strip=1 if archives else 0, show=show), bool(archives)
