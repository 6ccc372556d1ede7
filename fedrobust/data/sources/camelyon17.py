"""Camelyon17 as WILDS publishes it (Bandi et al.: IEEE TMI 38, 2019; Koh et al.: ICML 2021):
patches of lymph nodes of five hospitals, with or without tumour.

The layout: metadata.csv with the columns patient, node, x_coord, y_coord, tumor, center and split,
and patches/patient_<patient>_node_<node>/patch_patient_<...>_x_<x>_y_<y>.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from fedrobust.data.dataset import DataSource
from fedrobust.data.files import open_root
from fedrobust.data.lookup import FileLookup
from fedrobust.data.named_images import Missing, NamedImages, find_table, load_named
from fedrobust.data.table import ImageOptions, ImageTable, PathOf, take_rows
from fedrobust.data.text_table import read_csv
from fedrobust.errors import DataError
from fedrobust.utils.counting import format_count
from fedrobust.utils.names import shown_name, stored_path
from fedrobust.utils.validation import check_settings, flatten_groups

CLASSES = ("normal", "tumor")
TUMOR = {"0": "normal", "1": "tumor"}
REMEDY = "get camelyon17_v1.0 of WILDS from wilds.stanford.edu and set data.root to its folder"
COLUMNS = ("patient", "node", "x_coord", "y_coord", "tumor", "center", "split")
VALIDATION_CENTER, TEST_CENTER, TRAIN_WORD = "1", "2", "0"  # of WILDS' own split


@flatten_groups
@check_settings("data")
def camelyon17(
    root: Annotated[str, PathOf(REMEDY)],
    *,
    images: ImageOptions,
    split: Literal["drawn", "wilds"] = "drawn",
    group: Literal["patch", "patient"] = "patch",
    missing: Missing = "error",
) -> DataSource:
    """Camelyon17 of WILDS: patches of lymph nodes of five hospitals, which are its sites.

    Args:
        root: folder with metadata.csv and patches/.
        images: how the images are read; its fields are keys of their own.
        split: drawn, all three parts in the ratio 7:2:1 at each hospital; wilds, hospitals 0, 3 and
            4 are training images, 1 validation, 2 test, so that partition=by_site is impossible.
        group: what stays together at a client and on the server; patches of a patient are always in
            one part. patient needs server.root_per_class=0, or as many as a patient has.
        missing: whether patches of the table that are not there are an error, or left out.

    Returns:
        The source; nothing is read before its `load`.

    Raises:
        ConfigError: a setting is out of its range.

    Needs:
        the files of WILDS' Camelyon17 in data.root

    Reference:
        Bandi et al., IEEE Transactions on Medical Imaging 38, 2019; Koh et al., ICML 2021.
    """
    return DataSource(
        "camelyon17",
        lambda: load_named("camelyon17", read_camelyon17(root, split, group), images, missing),
        lambda: (stored_path(root),),
    )


@check_settings("data")
def read_camelyon17(
    root: str | Path,
    split: Literal["drawn", "wilds"] = "drawn",
    group: Literal["patch", "patient"] = "patch",
) -> NamedImages:
    """Its table and folder; for the arguments see `camelyon17`. Raises DataError."""
    path = find_table(stored_path(root), "metadata.csv", REMEDY)
    found = read_csv(path, dict.fromkeys(COLUMNS, REMEDY))
    cells = {name: found.filled(str(path), name) for name in COLUMNS}
    patients = [word.zfill(3) for word in cells["patient"]]  # a spreadsheet takes the zeros off
    rows = zip(patients, cells["node"], cells["x_coord"], cells["y_coord"], strict=True)
    table = ImageTable(
        [_patch(*row) for row in rows],
        _classes(path, found.lines, cells["tumor"]),
        CLASSES,
        cells["center"],
        patients,
        None,
        notes=found.notes,
        draw_by_site=True,
        keep_groups=group == "patient",
    )
    if split == "wilds":
        table = _with_wilds_split(table, cells)
    files = open_root(path.parent)
    return NamedImages(
        str(path), str(path.parent), files, FileLookup(files, whole=True), table, REMEDY
    )


def _patch(patient: str, node: str, x: str, y: str) -> str:
    folder = f"patient_{patient}_node_{node}"
    return f"patches/{folder}/patch_{folder}_x_{x}_y_{y}.png"


def _classes(path: Path, lines: Sequence[int], words: Sequence[str]) -> list[str]:
    for line, word in zip(lines, words, strict=True):
        if word not in TUMOR:
            raise DataError(
                f"{path}: line {line} has the tumor {shown_name(word)}; it must be 0 or 1"
            )
    return [TUMOR[word] for word in words]


def _with_wilds_split(table: ImageTable, cells: dict[str, list[str]]) -> ImageTable:
    """Whole hospitals for validation and test; of the others the training patches only."""
    words = {VALIDATION_CENTER: "validation", TEST_CENTER: "test"}
    splits = [words.get(center, "train") for center in cells["center"]]
    rows = [
        row
        for row, (word, split) in enumerate(zip(cells["split"], splits, strict=True))
        if split != "train" or word == TRAIN_WORD
    ]
    left_out = len(splits) - len(rows)
    note = f"{format_count(left_out, 'patch', 'patches')} of WILDS' id_val part left out"
    notes = (*table.notes, note) if left_out else table.notes
    return take_rows(replace(table, splits=splits, notes=notes), rows)
