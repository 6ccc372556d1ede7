"""Which file a table means: found where one can be meant, refused with both paths where several
can."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fedrobust.data.files import open_root
from fedrobust.data.lookup import FileLookup
from fedrobust.data.sources.csv_table import csv
from fedrobust.data.sources.ham10000 import CLASSES, ham10000
from fedrobust.data.sources.image_folder import image_folder
from fedrobust.errors import DataError
from tests.helpers.datasets import encoded, picture

COMPOSED, DECOMPOSED = "l\u00e4sion", "la\u0308sion"
PNG = encoded(np.full((4, 4, 3), 7, np.uint8))


def lookup(root: Path, *names: str) -> FileLookup:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return FileLookup(open_root(root))


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("a/1.png", "a/1.png"),
        (" a\\1.png ", "a/1.png"),
        ("a/1", "a/1.png"),
        ("1.PNG", "a/1.png"),
        ("2", "b/c/2.JPG"),
        ("c/2.jpg", "b/c/2.JPG"),
        ("ISIC.0001", "ISIC.0001.jpeg"),
        ("notes.txt", "notes.txt"),
    ],
)
def test_a_name_is_found_by_the_end_of_its_path_with_or_without_ending(
    tmp_path: Path, name: str, stored: str
) -> None:
    found = lookup(tmp_path, "a/1.png", "b/c/2.JPG", "ISIC.0001.jpeg", "notes.txt", "b/.2.jpg")
    assert found.find(name, "t.csv") == stored


@pytest.mark.parametrize("name", ["x", "x.jpg", "b/x"])
def test_a_name_that_several_files_can_mean_is_refused_with_both(tmp_path: Path, name: str) -> None:
    names = ("photos/x.jpg", "masks/x.png", "b/x.jpg", "b/x.png", "more/x.jpg")
    with pytest.raises(DataError, match=r"^t\.csv: image \S+ can be (\S+) or (\S+)") as caught:
        lookup(tmp_path, *names).find(name, "t.csv")
    assert sum(one in str(caught.value) for one in names) == 2
    assert "write the whole path and ending, or keep only one of them" in str(caught.value)


def test_the_whole_path_of_a_file_means_that_file(tmp_path: Path) -> None:
    found = lookup(tmp_path, "x.jpg", "masks/x.jpg", "masks/x.png")
    assert found.find("x.jpg", "t.csv") == "x.jpg"
    assert found.find("masks/x.png", "t.csv") == "masks/x.png"
    with pytest.raises(DataError, match=r"x can be masks/x\.jpg or masks/x\.png or 1 more; write"):
        found.find("x", "t.csv")


def test_unicode_forms_find_each_other_but_two_files_are_two(tmp_path: Path) -> None:
    one = lookup(tmp_path / "one", f"{DECOMPOSED}.png")
    assert one.find(f"{COMPOSED}.png", "t.csv") == f"{DECOMPOSED}.png"
    assert one.find(DECOMPOSED, "t.csv") == f"{DECOMPOSED}.png"
    two = lookup(tmp_path / "two", f"{DECOMPOSED}.png", f"{COMPOSED}.png")
    with pytest.raises(
        DataError, match=r"can be la\\u0308sion\.png or l\\xe4sion\.png, one name in two Unicode"
    ):
        two.find(f"{COMPOSED}.png", "t.csv")


def test_a_file_that_is_not_there_has_its_nearest_named(tmp_path: Path) -> None:
    found = lookup(tmp_path, "a/One.png")
    for name in ("a/One.jpg", "a/one.png", "other/one"):
        with pytest.raises(DataError, match=r"is not in the data folder; there is a/One\.png"):
            found.find(name, "t.csv")
    with pytest.raises(DataError, match=r"image two is not in the data folder; check data\.root"):
        found.find("two", "t.csv")
    with pytest.raises(DataError, match=r"image \. is not in the data folder"):
        found.find(".", "t.csv")
    with pytest.raises(DataError, match=r"image a\\nb is not in the data folder") as caught:
        found.find("a\nb", "t.csv")
    assert "\n" not in str(caught.value)


def packed(path: Path, *names: str, flag: bool = True) -> Path:
    """A zip with one picture under each name, as it is written; flag: names are said to be
    UTF-8."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, encoded(np.full((4, 4, 3), number, np.uint8)))
    if not flag:  # as macOS packs: UTF-8, but nothing says so
        data = path.read_bytes()
        for head, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            parts = data.split(head)
            data = head.join(
                [
                    parts[0],
                    *(
                        one[: place - 3] + bytes([one[place - 3] & ~8]) + one[place - 2 :]
                        for one in parts[1:]
                    ),
                ]
            )
        path.write_bytes(data)
    return path


def every(form: str) -> list[str]:
    return [
        form.format(kind=kind, row=row) for kind in ("benign", "malignant") for row in range(10)
    ]


@pytest.mark.parametrize(
    ("form", "note"),
    [
        ("{kind}/{row}.png", ""),
        ("{kind}\\{row}.png", ""),
        ("my data/{kind}/{row}.png", "all images lie in my data, which counts as wrapping"),
        ("a\\b\\{kind}\\{row}.png", "all images lie in a/b, which counts as wrapping"),
    ],
)
def test_zips_of_every_system_are_read(tmp_path: Path, form: str, note: str) -> None:
    beside = ["__MACOSX/benign/._0.png", ".DS_Store", "benign/.DS_Store"]
    path = packed(tmp_path / "all.zip", *every(form), *beside)
    data = image_folder(str(path), size=8).load()
    assert data.class_names == ("benign", "malignant")
    assert len(data) == 20
    assert data.notes == ((note,) if note else ())
    rows = [f"{name},{name.split('/')[0]}" for name in every("{kind}/{row}.png")]
    (tmp_path / "t.csv").write_text("\n".join(["image,label", *rows]))
    assert len(csv(str(tmp_path / "t.csv"), str(path), size=8).load()) == 20


def test_names_in_a_zip_are_utf8_whether_it_says_so_or_not(tmp_path: Path) -> None:
    names = [f"{kind}/{row}.png" for kind in ("Na\u0308vus", "Melanom") for row in range(10)]
    for flag in (True, False):
        path = packed(tmp_path / f"{flag}.zip", *names, flag=flag)
        with zipfile.ZipFile(path) as archive:
            assert any("Na\u0308vus" in name for name in archive.namelist()) is flag
        assert image_folder(str(path), size=8).load().class_names == ("Melanom", "N\u00e4vus")


def test_a_name_that_a_zip_holds_twice_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "all.zip", "a/0.png", "a\\0.png")
    with pytest.raises(DataError, match=r"all\.zip: holds a/0\.png twice; pack it anew"):
        open_root(path)


def test_sites_and_classes_of_folders_are_one_in_both_unicode_forms(tmp_path: Path) -> None:
    for site, name in (("wien", "N\u00e4vus"), ("graz", "Na\u0308vus")):
        for row in range(10):
            picture(tmp_path / site / name / f"{row}.png")
            picture(tmp_path / site / "Melanom" / f"{row}.png")
    data = image_folder(str(tmp_path), layout="site/class", size=8).load()
    assert data.class_names == ("Melanom", "N\u00e4vus")
    wanted = ["Na\u0308vus", "Melanom"]  # typed in the other form
    data = image_folder(str(tmp_path), layout="site/class", classes=wanted, size=8).load()
    assert data.class_names == ("N\u00e4vus", "Melanom")


def test_a_folder_is_found_in_either_unicode_form(tmp_path: Path) -> None:
    for name in every(DECOMPOSED + "/{kind}/{row}.png"):
        picture(tmp_path / name)
    assert len(image_folder(str(tmp_path / COMPOSED), size=8).load()) == 20
    rows = [f"{name},{name.split('/')[0]}" for name in every("{kind}/{row}.png")]
    (tmp_path / DECOMPOSED / "t.csv").write_text("\n".join(["image,label", *rows]))
    assert len(csv(str(tmp_path / COMPOSED / "t.csv"), size=8).load()) == 20
    with pytest.raises(DataError, match="nowhere: does not exist"):
        image_folder(str(tmp_path / "nowhere")).load()


def test_one_site_alone_is_no_wrapping_where_the_layout_names_it(tmp_path: Path) -> None:
    for name in every("wien/{kind}/{row}.png"):
        picture(tmp_path / name)
    assert image_folder(str(tmp_path), layout="site/class", size=8).load().site_names == ("wien",)
    picture(tmp_path / "graz" / "benign" / "0.png")
    with pytest.raises(DataError, match=r"graz/benign/0\.png does not lie at class/<image>"):
        image_folder(str(tmp_path), size=8).load()


def not_utf8(folder: Path, name: bytes, data: bytes) -> None:
    path = os.fsencode(folder) + b"/" + name
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")


def test_names_that_are_not_utf8_work_or_are_refused_in_one_line(tmp_path: Path) -> None:
    for name in every("{kind}/{row}.png"):
        picture(tmp_path / name)
    not_utf8(tmp_path, b"benign/l\xe4sion.png", PNG)
    assert len(image_folder(str(tmp_path), size=8).load()) == 21
    not_utf8(tmp_path, b"benign/l\xf6sion.png", b"rubbish")
    with pytest.raises(DataError, match=r"benign/l\\xf6sion\.png cannot be read"):
        image_folder(str(tmp_path), size=8).load()
    data = image_folder(str(tmp_path), size=8, on_broken="skip").load()
    assert list(data.skipped) == ["benign/l\\xf6sion.png"]
    not_utf8(tmp_path, b"n\xe6vus/0.png", PNG)
    with pytest.raises(DataError, match=r"the label n\\xe6vus is not UTF-8, .*convmv") as caught:
        image_folder(str(tmp_path), size=8, on_broken="skip").load()
    assert str(caught.value).isprintable()


def ham(folder: Path, ending: str = "jpg") -> None:
    rows = [f"HAM_{dx}{row},{dx}{row},{dx}" for dx in CLASSES for row in range(10)]
    (folder / "HAM10000_metadata").write_text("\n".join(["lesion_id,image_id,dx", *rows]))
    for row in rows:
        picture(folder / "images" / f"{row.split(',')[1]}.{ending}")


def test_masks_beside_the_photographs_of_ham10000_are_never_taken_for_them(tmp_path: Path) -> None:
    ham(tmp_path)
    assert len(ham10000(str(tmp_path), size=8).load()) == 70
    mask = picture(tmp_path / "masks" / "nv3.png")
    with pytest.raises(DataError, match="image nv3 can be ") as caught:
        ham10000(str(tmp_path), size=8).load()
    assert str(mask) in str(caught.value)
    assert str(tmp_path / "images" / "nv3.jpg") in str(caught.value)
    mask.unlink()
    twin = tmp_path / "HAM10000_metadata.csv"
    twin.write_bytes((tmp_path / "HAM10000_metadata").read_bytes())
    with pytest.raises(
        DataError, match=r"HAM10000_metadata and \S+metadata\.csv; keep one of them"
    ):
        ham10000(str(tmp_path), size=8).load()
    twin.unlink()
    packed(tmp_path / "HAM10000_images.zip", "nv3.jpg")
    with pytest.raises(
        DataError, match=r"nv3 can be \S+images/nv3\.jpg or \S+images\.zip/nv3\.jpg"
    ):
        ham10000(str(tmp_path), size=8).load()
