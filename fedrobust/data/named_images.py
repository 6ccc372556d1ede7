"""The table and the folder of a published data set, before its images are looked up: what its
source and `fedrobust prepare` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from fedrobust.data.dataset import Dataset
from fedrobust.data.files import Files
from fedrobust.data.labels import LabelOptions
from fedrobust.data.lookup import FileLookup
from fedrobust.data.table import ImageOptions, ImageTable, load_table, take_rows
from fedrobust.errors import DataError
from fedrobust.utils.counting import format_count
from fedrobust.utils.names import shown_name

Missing = Literal["error", "skip"]
PLAIN_LABELS = LabelOptions()
SKIP = "data.missing=skip leaves their rows out"


@dataclass(frozen=True)
class NamedImages:
    """Rows of a table whose images are to be found.

    Attributes:
        source: the table, for errors.
        root: the folder of the images, for errors.
        files: the files below it.
        lookup: finds them by the names of the table.
        table: its rows; `images` as the table writes them.
        remedy: where to get what is not there.
        joined: whether the files are those of several zips.
        can_skip: whether the source has the setting data.missing.
    """

    source: str
    root: str
    files: Files
    lookup: FileLookup
    table: ImageTable
    remedy: str
    joined: bool = False
    can_skip: bool = True

    @cached_property
    def missing(self) -> Sequence[str]:
        """The images that are not below the root."""
        return [name for name in self.table.images if not self.lookup.candidates(name)]

    def found(self, missing: Missing) -> ImageTable:
        """The table with the stored names of its images.

        Args:
            missing: whether images that are not there are an error, or their rows are left out.

        Raises:
            DataError: images are not there, or a name fits several files.
        """
        table = self.table
        if self.missing:
            what = (
                f"{self.source}: {format_count(len(table.images), 'image')}, {len(self.missing)} "
                f"not below {self.root}, the first is {shown_name(self.missing[0])}"
            )
            if missing == "error" or len(self.missing) == len(table.images):
                some = len(self.missing) < len(table.images)
                skip = f", or {SKIP}" if some and self.can_skip else ""
                raise DataError(f"{what}; {self.remedy}{skip}")
            absent = set(self.missing)
            rows = [row for row, name in enumerate(table.images) if name not in absent]
            table = take_rows(table, rows)
            table = replace(table, notes=(*table.notes, f"{what}; these rows are left out"))
        return replace(table, images=[self.lookup.find(one, self.source) for one in table.images])


def load_named(
    name: str,
    named: NamedImages,
    chosen: ImageOptions,
    missing: Missing = "error",
    options: LabelOptions = PLAIN_LABELS,
) -> Dataset:
    """The rows as a data set; see `NamedImages.found` and `table.load_table`."""
    return load_table(
        name,
        named.source,
        named.files,
        named.found(missing),
        chosen=chosen,
        options=options,
    )


def find_table(root: Path, name: str, remedy: str) -> Path:
    """The table of that name in a folder, or in the one folder in it that has it (archives unpack
    to one).

    Raises:
        DataError: there is none, or there are several.
    """
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such folder; {remedy}")
    if (root / name).is_file():
        return root / name
    found = sorted(path for path in root.glob(f"*/{name}") if path.is_file())
    if len(found) > 1:
        raise DataError(f"data.root={root}: holds {found[0]} and {found[1]}; name one of the two")
    if not found:
        raise DataError(f"data.root={root}: has no {name}; {remedy}")
    return found[0]
