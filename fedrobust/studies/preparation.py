"""What `fedrobust prepare` says and does: where a data set is to be had, whether a folder of it is
whole, and a table of it that `data=csv` reads."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedrobust.data.export import (
    find_damaged,
    make_folder,
    rows_without,
    write_copies,
    write_table,
)
from fedrobust.data.files import Files
from fedrobust.data.labels import LabelOptions
from fedrobust.data.named_images import NamedImages
from fedrobust.data.npz_reader import NpzReader
from fedrobust.data.published import MEDMNIST_COUNTS, PUBLISHED, PublishedSet
from fedrobust.data.sources.medmnist import SIZES
from fedrobust.data.table import EncodedTable, encode_table, take_rows, unnamed_images
from fedrobust.errors import ConfigError, DataError
from fedrobust.utils.counting import format_count
from fedrobust.utils.names import did_you_mean, shown_name, stored_path
from fedrobust.utils.validation import check_names

SHOWN = 5  # names of missing or damaged files
STEP = 20_000  # images between two lines about the progress
PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for.

    Attributes:
        name: of the set; None: all of them, in words.
        folder: its files; None: only where to get them.
        settings: of its source, as words: label=Edema.
        out: folder of the table to be written; None: none.
        size: side of resized copies in pixels; None: no copies.
        skip: whether images that are missing or damaged are left out.
        quick: whether no image is opened.
    """

    name: str | None = None
    folder: Path | None = None
    settings: Sequence[str] = ()
    out: Path | None = None
    size: int | None = None
    skip: bool = False
    quick: bool = False


def prepare(asked: Asked) -> None:
    """Print and write what was asked for.

    Raises:
        ConfigError: an unknown set, or words that do not go together.
        DataError: files of the folder are missing, damaged or not as expected.
    """
    if asked.name is None:
        for name in PUBLISHED:
            _introduce(name, PUBLISHED[name])
        return
    if asked.name not in PUBLISHED:
        near = did_you_mean(asked.name, PUBLISHED)
        raise ConfigError(f"{asked.name}: unknown set; {near}known are {', '.join(PUBLISHED)}")
    chosen = PUBLISHED[asked.name]
    if asked.folder is None:
        if asked.out is not None or asked.settings:
            raise ConfigError(f"{asked.name}: give the folder of its files first")
        _introduce(asked.name, chosen)
    elif asked.size is not None and asked.out is None:
        raise ConfigError(
            f"--size={asked.size}: is the side of copies; name their folder by --to=<folder>"
        )
    elif chosen.read is None:
        _check_medmnist(asked, chosen)
    else:
        _check_files(asked, asked.name, stored_path(asked.folder))


def _introduce(name: str, chosen: PublishedSet) -> None:
    count = f"{chosen.images:,} images" if chosen.images else ""
    lines = {
        "get it": f"{chosen.address}; fedrobust downloads nothing",
        "licence": f"{chosen.licence} (docs/licences.md)",
        "holds": ", ".join(one for one in (chosen.holds, count) if one),
        "then": f"fedrobust prepare {name} <folder>",
    }
    print(f"{name}\n  {chosen.title}")
    print(*(f"  {key + ':':<9}{text}" for key, text in lines.items()), "", sep="\n")


def _read(asked: Asked, name: str, settings: Mapping[str, Any]) -> NamedImages:
    read = PUBLISHED[name].read
    assert read is not None
    given = {"root": str(asked.folder), **settings}
    check_names("data", given, read)
    return read(**given)


def _settings(words: Sequence[str]) -> dict[str, Any]:
    found = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise ConfigError(f"{word}: is no setting of the data set; write <key>=<value>")
        try:
            found[key.removeprefix("data.")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{word}: cannot be read; put the value in quotes") from error
    return found


def _check_files(asked: Asked, name: str, root: Path) -> None:
    chosen, settings = PUBLISHED[name], _settings(asked.settings)
    same = {key: value for key, value in settings.items() if key in ("path", "label")}
    whole = _read(asked, name, {**chosen.everything, **same})
    rows = len(whole.table.images)
    print(f"{whole.source}: {format_count(rows, 'row')} ({chosen.images:,} published)")
    _show_table(whole)
    missing = dict.fromkeys(whole.missing, "not there")
    there = take_rows(whole.table, list(rows_without(whole.table.images, missing)))
    stored = [whole.lookup.find(one, whole.source) for one in there.images]
    damaged = {} if asked.quick else find_damaged(whole.files, stored, _progress(len(stored)))
    unnamed = len(unnamed_images(whole.files, replace(there, images=stored)))
    state = "not opened" if asked.quick else f"{len(damaged)} damaged"
    print(
        f"{root}: {format_count(len(stored), 'image')} there, {len(missing)} missing, {state}, "
        f"{unnamed} that no row names"
    )
    bad = {**missing, **damaged}
    for one, reason in list(bad.items())[:SHOWN]:
        print(f"  {shown_name(one)}: {reason}")
    if bad and not asked.skip:
        raise DataError(
            f"{root}: {len(missing)} missing and {len(damaged)} damaged; get these files again, or "
            "leave them out by --skip"
        )
    named = _read(asked, name, settings)
    if asked.out is not None:
        _convert(asked, name, named, bad)
        return
    words = " ".join(f"data.{word.removeprefix('data.')}" for word in asked.settings)
    skip = " data.missing=skip" if missing and named.can_skip else ""
    skip += " data.on_broken=skip" if damaged else ""
    line = f"fedrobust simulate data={name} data.root={root}{words and ' ' + words}{skip}"
    print(f"ready: {line}{_partition(named)}")


def _partition(named: NamedImages) -> str:
    sites = len(set(named.table.sites or ()))
    return f" partition=by_site num_clients={sites}" if sites > 1 else ""


def _progress(count: int) -> Any:
    def said(done: int) -> None:
        if done % STEP == 0:
            print(f"{done:,} of {count:,} images", file=sys.stderr)

    return said


def _show_table(named: NamedImages) -> None:
    """Images by site and class."""
    table = named.table
    classes = list(table.classes or sorted(set(table.labels)))
    sites = table.sites if table.sites is not None else ["all"] * len(table.labels)
    counts = Counter(zip(sites, table.labels, strict=True))
    names = sorted(set(sites))
    first = max(map(len, [*names, "site"])) + 2
    widths = [max(len(one), 7) + 2 for one in classes]
    cells = [f"{shown_name(one):>{width}}" for one, width in zip(classes, widths, strict=True)]
    print(f"  {'site':<{first}}" + "".join(cells))
    for site in names:
        pairs = zip(classes, widths, strict=True)
        row = "".join(f"{counts[site, one]:>{width}}" for one, width in pairs)
        print(f"  {shown_name(site):<{first}}{row}")


def _convert(asked: Asked, name: str, named: NamedImages, bad: Mapping[str, str]) -> None:
    """A table of the rows whose images can be read, and copies if they are wanted."""
    assert asked.out is not None
    if named.joined and asked.size is None:
        raise ConfigError(
            f"--to={asked.out}: the images lie in several zips, which a table cannot name; unpack "
            "them, or have resized copies by --size=<pixels>"
        )
    rows = list(rows_without(named.table.images, bad))
    table = take_rows(named.table, rows)
    stored = [named.lookup.find(one, named.source) for one in table.images]
    kept = list(rows_without(stored, bad))
    table = replace(take_rows(table, kept), images=[stored[row] for row in kept])
    encoded = encode_table(name, named.source, table, 0, LabelOptions())
    for note in encoded.notes:
        print(f"note: {note}")
    make_folder(asked.out)
    images = list(encoded.table.images)
    if asked.size is not None:
        said = _progress(len(images))
        images = write_copies(named.files, images, asked.out, asked.size, said)
    path = asked.out / f"{name}.csv"
    write_table(path, encoded, images)
    print(f"{path}: {format_count(len(images), 'row')}")
    print(f"ready: {_csv_line(path, named.files, encoded, asked.size)}{_partition(named)}")


def _csv_line(path: Path, files: Files, encoded: EncodedTable, size: int | None) -> str:
    root = f" data.root={files.label}" if size is None else f" data.size={size}"
    classes = ",".join(encoded.classes)
    return f"fedrobust simulate data=csv data.path={path}{root} 'data.classes=[{classes}]'"


def _check_medmnist(asked: Asked, chosen: PublishedSet) -> None:
    if asked.out is not None or asked.settings or asked.skip:
        raise ConfigError("medmnist: its files are read as they are; give its folder alone")
    assert asked.folder is not None
    folder = stored_path(asked.folder)
    known = {
        f"{flag}{'' if size == 28 else f'_{size}'}.npz": (flag, size)
        for flag in MEDMNIST_COUNTS
        for size in SIZES
    }
    found = sorted(path for path in folder.glob("*.npz") if path.name in known)
    if not found:
        raise DataError(f"{folder}: has no {chosen.holds}")
    problems = []
    for path in found:
        flag, size = known[path.name]
        counts = _count_npz(path, size)
        words = " + ".join(f"{count:,}" for count in counts)
        if counts == MEDMNIST_COUNTS[flag]:
            print(f"{path}: {words} images (train + val + test), as published")
            line = f"data=medmnist data.flag={flag} data.size={size} data.root={folder}"
            print(f"ready: fedrobust simulate {line}")
        else:
            wanted = " + ".join(f"{count:,}" for count in MEDMNIST_COUNTS[flag])
            problems.append(f"{path}: has {words} images, published are {wanted}")
    if problems:
        raise DataError(f"{problems[0]}; get it again, or read it as a set of your own by data=npz")


def _count_npz(path: Path, size: int) -> tuple[int, ...]:
    """Images of each part, all of them read. Raises DataError for a damaged or foreign file."""
    try:
        with NpzReader(path) as archive:
            counts = []
            for part in PARTS:
                key = f"{part}_images"
                if key not in archive.keys:
                    raise DataError(f"{path}: has no {key}; get it again")
                labels = archive.numbers(f"{part}_labels")
                archive.check_images(key, len(labels))
                sides = {np.shape(one)[:2] for one in archive.images(key)}
                if sides != {(size, size)}:
                    raise DataError(f"{path}: {key} are not of {size} x {size} pixels; rename it")
                counts.append(len(labels))
            return tuple(counts)
    except DataError:
        raise
    except Exception as error:  # damaged archives raise almost anything
        raise DataError(f"{path}: is damaged ({error}); get it again") from error
