"""Data folders and archives as an enemy or an accident leaves them: one line, bounded memory."""

import errno
import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedrobust.data import Dataset, files
from fedrobust.data.files import open_root
from fedrobust.data.labels import LabelOptions
from fedrobust.data.sources.csv_table import csv
from fedrobust.data.sources.image_folder import image_folder
from fedrobust.data.sources.npz_archive import npz
from fedrobust.data.table import ImageOptions, ImageTable, load_table
from fedrobust.errors import DataError
from tests.helpers.datasets import encoded, picture

PIXELS: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        for number in range(10):
            picture(tmp_path / "root" / name / f"{number}.png", (number, ord(name), 0))
    return tmp_path / "root"


def load(root: Path, on_broken: str) -> Dataset:
    return image_folder(str(root), size=8, on_broken=on_broken).load()


def check_refused(root: Path, name: str, reason: str) -> None:
    """The file ends a run in one line, or is left out and named where that is asked for."""
    with pytest.raises(DataError) as caught:
        load(root, "error")
    line = str(caught.value)
    assert line.startswith(f"{root}: {name} cannot be read (")
    assert reason in line
    assert "data.on_broken=skip" in line
    assert "\n" not in line
    data = load(root, "skip")
    assert len(data) == 20
    assert list(data.skipped) == [name]
    assert reason in data.skipped[name]


def test_a_pipe_is_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "a" / "pipe.png")
    check_refused(root, "a/pipe.png", "a pipe, a device or a socket")


def test_a_device_is_not_read(root: Path) -> None:
    (root / "a" / "zero.png").symlink_to("/dev/zero")
    check_refused(root, "a/zero.png", "a link that leads out of the data folder")


def test_a_link_out_of_the_folder_is_not_followed(root: Path) -> None:
    outside = picture(root.parent / "outside.png")
    (root / "a" / "link.png").symlink_to(outside)
    check_refused(root, "a/link.png", "a link that leads out of the data folder")


@pytest.mark.parametrize("name", ["a/up.png", "up"])
def test_a_loop_of_links_is_noticed(root: Path, name: str) -> None:
    (root / name).symlink_to("..", target_is_directory=True)
    leads = "folder, which is read" if name.startswith("a/") else "out of the data folder"
    check_refused(root, name, leads)


def test_a_link_to_itself_is_noticed(root: Path) -> None:
    (root / "a" / "self.png").symlink_to("self.png")
    check_refused(root, "a/self.png", "a link to nothing")


def test_a_link_to_a_file_of_the_folder_is_read(root: Path) -> None:
    (root / "a" / "again.png").symlink_to("../b/3.png")
    data = load(root, "error")
    assert len(data) == 21
    assert not data.skipped


def test_the_root_itself_may_be_a_link(root: Path) -> None:
    (root.parent / "link").symlink_to(root)
    assert load(root.parent / "link", "error").digest == load(root, "error").digest


def test_a_link_named_by_a_table_is_refused_too(root: Path) -> None:
    outside = picture(root.parent / "outside.png")
    (root / "a" / "link.png").symlink_to(outside)
    (root / "t.csv").write_text("image,label\na/1.png,a\nb/1.png,b\na/link.png,a\n")
    with pytest.raises(DataError, match=r"a/link\.png cannot be read \(a link that leads out"):
        csv(str(root / "t.csv"), size=8).load()


def test_a_folder_that_cannot_be_listed_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a" / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if path.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    check_refused(root, "a/closed/", "a folder that cannot be listed (Permission denied)")


def test_a_large_file_is_not_read(root: Path) -> None:
    with (root / "a" / "big.png").open("wb") as file:
        file.truncate(3 << 30)  # sparse
    tracemalloc.start()
    try:
        check_refused(root, "a/big.png", "3221 MB; files above 268 MB are not read")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_postscript_file_starts_no_interpreter(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (root / "a" / "x.jpg").write_bytes(EPS)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    check_refused(root, "a/x.jpg", "it is no JPEG, PNG, BMP, TIFF, WebP, GIF or DICOM")
    assert not (tmp_path / "started").exists()


def test_the_root_must_be_a_folder_or_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(DataError, match=r"pipe\.zip: a pipe, a device or a socket"):
        open_root(tmp_path / "pipe.zip")


def test_a_table_must_be_a_regular_file_of_a_bounded_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"pipe\.csv: a pipe, a device or a socket"):
        csv(str(tmp_path / "pipe.csv")).load()
    with (tmp_path / "big.csv").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(DataError, match=r"big\.csv: 1074 MB; files above 268 MB are not read"):
        csv(str(tmp_path / "big.csv")).load()


def test_an_npz_must_be_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(DataError, match=r"pipe\.npz: not a readable npz file .*no regular file"):
        npz(str(tmp_path / "pipe.npz")).load()


def test_a_column_of_names_is_no_column_of_classes(root: Path) -> None:
    rows = [f"{number}.png,{number}" for number in range(10_001)]
    table = ImageTable([row.split(",")[0] for row in rows], [row.split(",")[1] for row in rows])
    with pytest.raises(DataError, match=r"t\.csv: 10001 different labels, more than 10000 classes"):
        load_table(
            "csv",
            "t.csv",
            open_root(root),
            table,
            chosen=ImageOptions(size=8),
            options=LabelOptions(),
        )


# --- archives ---


def archive_of(root: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """The pictures of `root` in a zip file."""
    path = root.parent / "all.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for one in sorted(root.rglob("*.png")):
            archive.write(one, one.relative_to(root).as_posix())
    return path


def test_a_zip_and_its_folder_are_the_same_images(root: Path) -> None:
    assert load(archive_of(root), "error").digest == load(root, "error").digest


def test_a_member_that_unfolds_to_much_is_not_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive_of(root)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/bomb.png", bytes(3 << 20))
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 2 << 20)
    check_refused(path, "a/bomb.png", "3 MB; files above 2 MB are not read")


def test_a_member_that_lies_about_its_size_is_noticed(root: Path) -> None:
    path = archive_of(root)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/lie.png", bytes(3 << 20))
    said, lie = (3 << 20).to_bytes(4, "little"), (1 << 10).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(said, lie))
    check_refused(path, "a/lie.png", "CRC")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_method_that_unfolds_without_bound_is_refused(root: Path, method: int) -> None:
    path = archive_of(root)
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr("a/packed.png", encoded(PIXELS))
    check_refused(path, "a/packed.png", f"compressed by method {method}")


def test_a_link_in_a_zip_is_refused(root: Path) -> None:
    path = archive_of(root)
    info = zipfile.ZipInfo("a/link.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    check_refused(path, "a/link.png", "a link")


@pytest.mark.parametrize("name", ["../../escaped.png", "/etc/escaped.png"])
def test_a_path_out_of_a_zip_is_refused(root: Path, name: str) -> None:
    path = archive_of(root)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, encoded(PIXELS))
    check_refused(path, name, "a path that leads out of the archive")


def test_an_encrypted_member_is_refused(root: Path) -> None:
    path = archive_of(root)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("a/secret.png", encoded(PIXELS))
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 8] |= 1
    path.write_bytes(content)
    check_refused(path, "a/secret.png", "encrypted")


def test_members_that_overlap_are_a_bomb(root: Path) -> None:
    """All entries of the directory lead to one large member."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/0.png", bytes(10_000))
        info = archive.infolist()[0]
        for number in range(1, 9):
            copy = zipfile.ZipInfo(f"a/{number}.png")
            for name in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(copy, name, getattr(info, name))
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
    path = root.parent / "overlap.zip"
    path.write_bytes(out.getvalue())
    with pytest.raises(DataError, match=r"overlap\.zip: .*overlap"):
        load(path, "skip")
