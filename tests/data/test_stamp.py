"""Notice of changed files: what a data set kept in memory is known by."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

from fedrobust.data import sources
from fedrobust.data.files import stamp
from fedrobust.data.sources.csv_table import csv
from fedrobust.data.sources.medmnist import medmnist
from fedrobust.data.sources.one_site import one_site


def write_again(folder: Path) -> None:
    """Other bytes of the same length in the same file, with the time of the old ones."""
    file = folder / "a" / "1.png"
    before = file.stat()
    file.write_bytes(b"other")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(folder: Path) -> None:
    file = folder / "a" / "1.png"
    (folder / "new").write_bytes(b"bytes")
    os.utime(folder / "new", ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    (folder / "new").replace(file)


CHANGES: list[Callable[[Path], object]] = [
    write_again,
    replace,
    lambda folder: (folder / "a" / "2.png").write_bytes(b""),
    lambda folder: (folder / "a" / "1.png").unlink(),
    lambda folder: (folder / "a" / "1.png").rename(folder / "1.png"),
    lambda folder: (folder / "b").mkdir(),
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_file_is_noticed(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"bytes")
    before = stamp([tmp_path])
    assert stamp([tmp_path]) == before
    (tmp_path / "a" / "1.png").read_bytes()  # reading is no change
    assert stamp([tmp_path]) == before
    change(tmp_path)
    assert stamp([tmp_path]) != before


def test_a_single_file_behind_a_link_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "data.npz")
    nothing, before = stamp([tmp_path / "missing"]), stamp([tmp_path / "link"])
    (tmp_path / "data.npz").write_bytes(b"2")
    assert stamp([tmp_path / "link"]) != before
    (tmp_path / "missing").write_bytes(b"")
    assert stamp([tmp_path / "missing"]) != nothing


def test_every_source_of_files_says_what_it_reads(tmp_path: Path) -> None:
    found = {}
    for module in iter_modules(sources.__path__):
        name = {"csv_table": "csv", "npz_archive": "npz"}.get(module.name, module.name)
        factory = getattr(import_module(f"{sources.__name__}.{module.name}"), name)
        given = {
            one: str(tmp_path / one / "x")
            for one in ("path", "root")
            if one in inspect.signature(factory).parameters
        }
        if given:
            found[name] = given, tuple(factory(**given).places())
    files = {"camelyon17", "chexpert", "csv", "fed_isic2019", "ham10000", "image_folder"}
    assert {*files, "medmnist", "npz"} <= set(found)
    for name, (given, places) in found.items():
        for key, value in given.items():
            assert any(Path(value) in (one, *one.parents) for one in places), (name, key, places)
    assert tmp_path / "path" in csv(path=str(tmp_path / "path" / "x")).places()  # images beside it
    source = medmnist(root=str(tmp_path), size=64)
    assert source.places() == (tmp_path / "dermamnist_64.npz",)
    assert one_site(source).places() == source.places()
