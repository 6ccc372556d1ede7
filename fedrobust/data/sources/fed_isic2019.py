"""Fed-ISIC2019 (Ogier du Terrail et al.: NeurIPS 2022): the dermatoscopic images of ISIC 2019 at
six centres, with the parts that FLamby gives them.

FLamby's table (columns image, target, center, fold) and the images of ISIC 2019, as published or as
FLamby's script resizes them, in folders or in a zip. Neither is FLamby's table lesion-disjoint, nor
does it name lesions: they come from ISIC_2019_Training_Metadata.csv or HAM10000_metadata, where
these lie beside it. The licence is CC BY-NC: non-commercial use only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from fedrobust.data.dataset import DataSource
from fedrobust.data.files import Files, join_roots, open_root
from fedrobust.data.lookup import FileLookup
from fedrobust.data.named_images import Missing, NamedImages, load_named
from fedrobust.data.table import ImageOptions, ImageTable, PathOf, take_rows
from fedrobust.data.text_table import TextTable, read_csv
from fedrobust.errors import DataError
from fedrobust.utils.counting import format_count
from fedrobust.utils.names import clean_name, shown_name, stored_path
from fedrobust.utils.validation import check_settings, flatten_groups

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")  # FLamby's targets 0 to 7
# the number first, so that the order of the sites is FLamby's
CENTERS = (
    "0 bcn",
    "1 vidir_molemax",
    "2 vidir_modern",
    "3 rosendahl",
    "4 msk",
    "5 vienna_dias",
)
TABLES = ("fed_isic2019*.csv", "fed_isic2019*.csv.gz", "train_test_split", "train_test_split.csv")
LESIONS = {  # tables that name lesions, with their column of the images
    "ISIC_2019_Training_Metadata.csv": "image",
    "HAM10000_metadata": "image_id",
    "HAM10000_metadata.csv": "image_id",
    "HAM10000_metadata.tab": "image_id",
}
REMEDY = (
    "get ISIC_2019_Training_Input and its metadata from challenge.isic-archive.com (2019) and "
    "FLamby's train_test_split, and set data.root to their folder"
)
COLUMNS = ("image", "target", "center", "fold")


@flatten_groups
@check_settings("data")
def fed_isic2019(
    root: Annotated[str, PathOf(REMEDY)],
    path: Annotated[str, PathOf("give FLamby's table")] | None = None,
    *,
    images: ImageOptions,
    split: Literal["given", "drawn"] = "given",
    lesions: Literal["disjoint", "ignore"] = "disjoint",
    missing: Missing = "error",
) -> DataSource:
    """Fed-ISIC2019: eight kinds of skin lesion at the six centres of FLamby, which are its sites.

    Args:
        root: folder or zip of the images of ISIC 2019.
        path: FLamby's table train_test_split (packed with gzip or not); null: the one in
            data.root.
        images: how the images are read; its fields are keys of their own.
        split: given, FLamby's test fold, and validation drawn from its train fold; drawn, all three
            parts in the ratio 7:2:1.
        lesions: disjoint, images of one lesion stay together, and train images of a lesion that is
            in the test fold, too, are left out; ignore, each image counts as its own, as in FLamby.
        missing: whether images of the table that are not there are an error, or left out.

    Returns:
        The source; nothing is read before its `load`.

    Raises:
        ConfigError: a setting is out of its range.

    Needs:
        the images of ISIC 2019 in data.root and FLamby's table

    Reference:
        Ogier du Terrail et al., FLamby, NeurIPS 2022.
    """

    def places() -> tuple[Path, ...]:
        return (stored_path(root), *([] if path is None else [stored_path(path)]))

    return DataSource(
        "fed_isic2019",
        lambda: load_named(
            "fed_isic2019", read_fed_isic2019(root, path, split, lesions), images, missing
        ),
        places,
    )


@check_settings("data")
def read_fed_isic2019(
    root: str | Path,
    path: str | Path | None = None,
    split: Literal["given", "drawn"] = "given",
    lesions: Literal["disjoint", "ignore"] = "disjoint",
) -> NamedImages:
    """Its table and folder; for the arguments see `fed_isic2019`. Raises DataError."""
    place = stored_path(root)
    table_path = _find_table(place) if path is None else stored_path(path)
    found = read_csv(table_path, dict.fromkeys(COLUMNS, "give FLamby's train_test_split"))
    source = str(table_path)
    names = found.filled(source, "image")
    table = ImageTable(
        names,
        _words(source, found, "target", CLASSES),
        CLASSES,
        _words(source, found, "center", CENTERS),
        None,
        found.filled(source, "fold") if split == "given" else None,
        notes=found.notes,
    )
    if lesions == "disjoint":
        table = _with_lesions(table, _find_lesions([table_path.parent, place], names))
    files, lookup, joined = _open(place)
    return NamedImages(source, str(place), files, lookup, table, REMEDY, joined=joined)


def _find_table(root: Path) -> Path:
    if not root.exists():
        raise DataError(f"data.root={root}: does not exist; {REMEDY}")
    found = sorted({path for name in TABLES for path in root.glob(name) if path.is_file()})
    if len(found) > 1:
        raise DataError(f"data.root={root}: holds {found[0]} and {found[1]}; set data.path to one")
    if not found:
        raise DataError(f"data.root={root}: holds no {TABLES[2]}; set data.path to FLamby's table")
    return found[0]


def _words(source: str, found: TextTable, column: str, words: Sequence[str]) -> list[str]:
    """The names of the numbers in a column."""
    known = {str(number): word for number, word in enumerate(words)}
    cells = [clean_name(cell) for cell in found.columns[column]]
    for line, cell in zip(found.lines, cells, strict=True):
        if cell not in known:
            raise DataError(
                f"{source}: line {line} has the {column} '{shown_name(cell)}'; it must be one of "
                f"{', '.join(known)}"
            )
    return [known[cell] for cell in cells]


def _find_lesions(folders: Sequence[Path], names: Sequence[str]) -> Mapping[str, str]:
    """The lesion of each image that a table of lesions names; nothing where there is no table."""
    places = [(folder / name, column) for folder in folders for name, column in LESIONS.items()]
    path, column = next(((path, one) for path, one in places if path.is_file()), (None, ""))
    if path is None:
        return {}
    found = read_csv(path, dict.fromkeys((column, "lesion_id"), "give it as ISIC publishes it"))
    wanted = set(names)
    pairs = zip(found.columns[column], found.columns["lesion_id"], strict=True)
    return {image: clean_name(one) for image, one in pairs if image in wanted and clean_name(one)}


def _with_lesions(table: ImageTable, lesions: Mapping[str, str]) -> ImageTable:
    """Groups, and no train image of a lesion that has a test image."""
    unknown = sum(name not in lesions for name in table.images)
    count = format_count(len(table.images), "image")
    notes = [*table.notes, f"{count}, {unknown} of unknown lesion, each its own group"]
    groups = [lesions.get(name) or f"image {name}" for name in table.images]
    if table.splits is None:
        return replace(table, groups=groups, notes=notes if unknown else table.notes)
    splits = [clean_name(word).lower() for word in table.splits]
    tested = {group for group, word in zip(groups, splits, strict=True) if word == "test"}
    rows = [
        row
        for row, (group, word) in enumerate(zip(groups, splits, strict=True))
        if word == "test" or group not in tested
    ]
    if left_out := len(groups) - len(rows):
        notes.append(
            f"{format_count(left_out, 'train image')} left out: the test fold shows the same "
            "lesion; data.lesions=ignore keeps them, as FLamby does"
        )
    return take_rows(replace(table, groups=groups, notes=notes), rows)


def _open(root: Path) -> tuple[Files, FileLookup, bool]:
    """The images of a folder or zip; of a folder without images the zips in it, as ISIC packs
    them; and whether it was these."""
    files = open_root(root)
    archives = [] if files.images or not root.is_dir() else sorted(root.glob("*.zip"))
    if not archives:
        return files, FileLookup(files), False
    joined = join_roots([open_root(path) for path in archives])
    return joined, FileLookup(joined, strip=1), True
