"""CheXpert (Irvin et al.: AAAI 2019): chest radiographs with fourteen observations, of which one is
the label.

The layout: train.csv and, where it is there, valid.csv with the columns Path, Sex, Age,
Frontal/Lateral, AP/PA and one for each observation (1 positive, 0 negative, -1 uncertain, blank not
mentioned), and the images that Path names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from fedrobust.data.dataset import DataSource
from fedrobust.data.files import open_root
from fedrobust.data.lookup import FileLookup
from fedrobust.data.named_images import Missing, NamedImages, find_table, load_named
from fedrobust.data.table import ImageOptions, ImageTable, PathOf, take_rows
from fedrobust.data.text_table import join_tables, read_csv
from fedrobust.errors import DataError
from fedrobust.utils.counting import format_count
from fedrobust.utils.names import clean_name, shown_name, stored_path
from fedrobust.utils.validation import OneOf, check_settings, flatten_groups

OBSERVATIONS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
REMEDY = (
    "get CheXpert-v1.0 from stanfordmlgroup.github.io/competitions/chexpert and set data.root to "
    "its folder"
)
PARTS = {"train.csv": "train", "valid.csv": "test"}
VIEW = "Frontal/Lateral"


@check_settings("data")
@dataclass(frozen=True, slots=True)
class Findings:
    """What of CheXpert's table becomes of an image.

    Attributes:
        label: the observation that is the label.
        uncertain: what an uncertain label (-1) becomes: positive, negative, a class of its own, or
            the image is left out.
        blank: what an observation that is not mentioned becomes: negative, as in CheXpert's paper,
            or the image is left out.
        views: which images are read.
        site: column that becomes the site (AP/PA, Sex); null: one site, as CheXpert names none.
        split: given, valid.csv are the test images and validation is drawn from train.csv; drawn,
            all three parts in the ratio 7:2:1.
    """

    label: Annotated[str, OneOf(OBSERVATIONS)] = "Pleural Effusion"
    uncertain: Literal["drop", "positive", "negative", "class"] = "drop"
    blank: Literal["negative", "drop"] = "negative"
    views: Literal["frontal", "lateral", "all"] = "frontal"
    site: str | None = None
    split: Literal["given", "drawn"] = "given"


@flatten_groups
@check_settings("data")
def chexpert(
    root: Annotated[str, PathOf(REMEDY)],
    *,
    findings: Findings,
    images: ImageOptions,
    missing: Missing = "error",
) -> DataSource:
    """CheXpert: chest radiographs, one of their observations as the label. Patients stay together.

    Args:
        root: folder with train.csv and the images.
        findings: what becomes the label; its fields are keys of their own.
        images: how the images are read; its fields, too.
        missing: whether images of the table that are not there are an error, or left out.

    Returns:
        The source; nothing is read before its `load`.

    Raises:
        ConfigError: a setting is out of its range.

    Needs:
        the files of CheXpert in data.root

    Reference:
        Irvin et al., AAAI 2019.
    """
    return DataSource(
        "chexpert",
        lambda: load_named("chexpert", read_chexpert(root, findings=findings), images, missing),
        lambda: (stored_path(root),),
    )


@flatten_groups
@check_settings("data")
def read_chexpert(root: str | Path, *, findings: Findings) -> NamedImages:
    """Its table and folder; for the arguments see `chexpert`. Raises DataError."""
    first = find_table(stored_path(root), "train.csv", REMEDY)
    paths = [path for name in PARTS if (path := first.parent / name).is_file()]
    source = ", ".join(str(path) for path in paths)
    needed = dict.fromkeys(("Path", VIEW, findings.label), REMEDY)
    if findings.site is not None:
        needed[findings.site] = "set data.site to one of them, or to null"
    tables = [read_csv(path, needed) for path in paths]
    found = join_tables(tables)
    parts = [PARTS[path.name] for path, one in zip(paths, tables, strict=True) for _ in one.lines]
    names = [_below_root(source, name) for name in found.filled(source, "Path")]
    labels = _labels(source, names, found.columns[findings.label], findings)
    views = [clean_name(one).lower() for one in found.columns[VIEW]]
    rows = [
        row for row, view in enumerate(views) if labels[row] and findings.views in ("all", view)
    ]
    left_out = sum(not label for label in labels)
    note = f"{findings.label}: {format_count(left_out, 'image')} without a clear label left out"
    given = findings.split == "given" and len(paths) > 1
    table = ImageTable(
        names,
        labels,
        ("negative", "positive", *(["uncertain"] if findings.uncertain == "class" else [])),
        found.column(findings.site),
        [PurePosixPath(name).parts[1] for name in names],
        parts if given else None,
        notes=(*found.notes, note) if left_out else found.notes,
    )
    files = open_root(first.parent)
    return NamedImages(
        source,
        str(first.parent),
        files,
        FileLookup(files, whole=True),
        take_rows(table, rows),
        REMEDY,
    )


def _below_root(source: str, name: str) -> str:
    """CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg without its first folder,
    which is the one that train.csv lies in."""
    parts = PurePosixPath(clean_name(name)).parts
    if len(parts) != 5:
        raise DataError(
            f"{source}: the Path {shown_name(name)} is not <set>/<part>/<patient>/<study>/<image>"
        )
    return "/".join(parts[1:])


def _labels(
    source: str, names: Sequence[str], cells: Sequence[str], findings: Findings
) -> list[str]:
    """The class of each image; empty where it is left out."""
    uncertain = {"drop": "", "class": "uncertain"}.get(findings.uncertain, findings.uncertain)
    words = {"1": "positive", "0": "negative", "-1": uncertain}
    words |= {f"{number}.0": word for number, word in words.items()}
    words[""] = "" if findings.blank == "drop" else findings.blank
    for name, cell in zip(names, cells, strict=True):
        if clean_name(cell) not in words:
            raise DataError(
                f"{source}: image {shown_name(name)} has '{shown_name(cell)}' as "
                f"{findings.label}; it must be 1, 0, -1 or blank"
            )
    return [words[clean_name(cell)] for cell in cells]
