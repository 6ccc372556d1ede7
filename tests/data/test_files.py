"""Own images as a csv table or as folders: what works, and what is refused with the file's name."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedrobust.data import cache
from fedrobust.data.sources.csv_table import csv
from fedrobust.data.sources.image_folder import image_folder
from fedrobust.data.table import ImageOptions, chosen_rows, subset
from fedrobust.errors import ConfigError, DataError
from fedrobust.utils.seeding import generator
from tests.helpers.datasets import encoded, picture

NOISE = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
COLOURS = {"nevus": (200, 10, 10), "melanoma": (10, 10, 200)}


def write_csv(folder: Path, rows: list[str], header: str = "image,label") -> Path:
    path = folder / "images.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def write_folders(root: Path, per_class: int = 10, above: str = "") -> Path:
    for name, colour in COLOURS.items():
        for number in range(per_class):
            picture(root / above / name / f"{number:02}.png", colour)
    return root


def plain(
    folder: Path,
    count: int = 20,
    header: str = "image,label",
    extra: Callable[[int], str] = lambda row: "",
) -> Path:
    """`count` pictures, two classes by turns, and their table."""
    rows = []
    for row in range(count):
        name = ("nevus", "melanoma")[row % 2]
        picture(folder / "pictures" / f"{row:02}.png", COLOURS[name])
        rows.append(f"pictures/{row:02}.png,{name}{extra(row)}")
    return write_csv(folder, rows, header)


def test_csv_reads_pixels_labels_and_splits(tmp_path: Path) -> None:
    data = csv(str(plain(tmp_path)), size=8).load()
    assert data.class_names == ("melanoma", "nevus")
    assert data.images.shape == (20, 3, 8, 8)
    for row, label in enumerate(data.labels.tolist()):
        assert tuple(data.images[row, :, 4, 4].tolist()) == COLOURS[data.class_names[label]]
    assert torch.bincount(data.splits.long()).tolist() == [14, 4, 2]
    assert data.site_names == ("all",)


def test_csv_with_sites_groups_and_splits(tmp_path: Path) -> None:
    def extra(row: int) -> str:
        split = ("train", "Validation", "TEST")[row // 2 % 3]
        return f",{'north' if row < 10 else 'south'},patient{row // 2},{split}"

    data = csv(
        str(plain(tmp_path, header="image,label,site,group,split", extra=extra)), size=8
    ).load()
    assert data.site_names == ("north", "south")
    assert data.sites.tolist() == [0] * 10 + [1] * 10
    assert torch.equal(data.splits.long(), torch.arange(20) // 2 % 3)
    assert len(data.groups.unique()) == 10


def test_csv_may_name_its_columns_classes_and_a_zip(tmp_path: Path) -> None:
    plain(tmp_path)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted((tmp_path / "pictures").iterdir()):
            archive.write(path, f"pictures/{path.name}")
    text = (
        (tmp_path / "images.csv")
        .read_text()
        .replace("image,label", "file,diagnosis")
        .replace(",", "\t")
    )
    table = tmp_path / "other.tab"
    table.write_text(text)
    settings = {"image": "file", "label": "diagnosis", "size": 8}
    packed = csv(
        str(table), str(tmp_path / "all.zip"), classes=["nevus", "melanoma"], **settings
    ).load()  # type: ignore[arg-type]
    loose = csv(str(tmp_path / "images.csv"), size=8, classes=["nevus", "melanoma"]).load()
    assert packed.class_names == ("nevus", "melanoma")
    assert packed.digest == loose.digest


def test_numbers_as_labels_keep_the_order_of_numbers(tmp_path: Path) -> None:
    rows = [f"{picture(tmp_path / f'{row}.png').name},{(2, 10)[row % 2]}" for row in range(20)]
    assert csv(str(write_csv(tmp_path, rows)), size=8).load().class_names == ("2", "10")


def test_changed_pixels_change_the_digest_and_are_not_taken_from_the_cache(tmp_path: Path) -> None:
    """The pixels differ; name, size and both times of the file do not."""
    path = plain(tmp_path)
    bitmap = tmp_path / "pictures" / "00.png"
    Image.new("RGB", (40, 40), (9, 9, 9)).save(bitmap, "BMP")
    os.utime(bitmap, (1e9, 1e9))
    source = csv(str(path), size=8)
    before = source.load()
    assert source.load().digest == before.digest
    Image.new("RGB", (40, 40), (1, 2, 3)).save(bitmap, "BMP")
    os.utime(bitmap, (1e9, 1e9))
    after = source.load()
    assert after.digest != before.digest
    assert after.images[0, :, 4, 4].tolist() == [1, 2, 3]


def test_equal_files_are_one_cache_entry_under_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "cache"))
    one = csv(str(plain(tmp_path / "one")), size=8).load()
    (tmp_path / "two").mkdir()
    shutil.copytree(tmp_path / "one" / "pictures", tmp_path / "two" / "pictures")
    shutil.copy(tmp_path / "one" / "images.csv", tmp_path / "two")
    assert csv(str(tmp_path / "two" / "images.csv"), size=8).load().digest == one.digest
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_file_that_changes_between_hash_and_decoding_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plain(tmp_path)

    def images(content: object, shape: cache.Shape, fill: cache.Fill) -> object:
        picture(tmp_path / "pictures" / "05.png", (1, 2, 3))
        return fill(np.zeros(shape, np.uint8))

    monkeypatch.setattr(cache, "images", images)
    with pytest.raises(DataError, match=r"05\.png changed while it was read; start again"):
        csv(str(path), size=8).load()


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["../secret.png,a"], "image,label", r"image ../secret.png leads out of the data folder"),
        (["/etc/passwd,a"], "image,label", r"image /etc/passwd leads out of the data folder"),
        ([r"x\..\..\secret.png,a"], "image,label", "leads out of the data folder"),
        ([r"C:\secret.png,a"], "image,label", "leads out of the data folder"),
        (["nothing.png,a"], "image,label", "image nothing.png is not in the data folder"),
        ([",a"], "image,label", "line 2 has no image; fill the cell or take the line out"),
        (["ok.png,a", "ok.png,b"], "image,label", "image ok.png is listed twice"),
        (
            ["ok.png,"],
            "image,label",
            "1 image, 1 without a label, the first is ok.png; fill the cells",
        ),
        (["ok.png,a,dev"], "image,label,split", "image ok.png has the split 'dev'"),
        (
            ["ok.png,a,g,train", "two.png,a,g,test"],
            "image,label,group,split",
            "group g lies in more than one split",
        ),
        (
            ["ok.png,a,test"],
            "image,label,split",
            "no image is marked train, .*; mark training images, or set data.split=null",
        ),
        (["ok.png,a,"], "image,label,group", "image ok.png has no group; fill the cell"),
        (["ok.png,a,"], "image,label,site", "image ok.png has no site"),
        (
            ["ok.png,a"],
            "picture,label",
            "has no column image; its columns are picture, label; name the one of the images' "
            "names: data.image=<column>",
        ),
        ([], "image,label", "has no rows"),
        (["ok.png,a,b,c"], "image,label", "line 2 has 4 cells, the header 2"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(
    tmp_path: Path, rows: list[str], header: str, message: str
) -> None:
    for name in ("ok.png", "two.png"):
        picture(tmp_path / "inner" / name)
    picture(tmp_path / "secret.png")
    path = write_csv(tmp_path / "inner", rows, header)
    with pytest.raises(DataError, match=message) as caught:
        csv(str(path), size=8).load()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_blanks_are_taken_off_and_said(tmp_path: Path) -> None:
    path = plain(tmp_path)
    clean = csv(str(path), size=8).load()
    path.write_text(path.read_text().replace("02.png,nevus\n", "02.png, nevus\n"))
    data = csv(str(path), size=8).load()
    assert (data.class_names, data.digest) == (clean.class_names, clean.digest)
    assert data.notes == ("label: blanks at the ends of 1 cell taken off (' nevus')",)
    assert clean.notes == ()


def test_images_with_several_labels_are_left_out_with_all_that_belongs_to_them(
    tmp_path: Path,
) -> None:
    path = plain(tmp_path, header="image,label,site", extra=lambda row: f",{'ns'[row // 10]}")
    text = path.read_text().replace("00.png,nevus", "00.png,nevus|melanoma")
    path.write_text(text)
    with pytest.raises(DataError, match=r"20 images, 1 with several labels, the first is pic"):
        csv(str(path), size=8).load()
    data = csv(str(path), size=8, multilabel="drop").load()
    assert data.sites.tolist() == [0] * 9 + [1] * 10
    assert tuple(data.images[0, :, 4, 4].tolist()) == COLOURS["melanoma"]
    assert len(csv(str(path), size=8, multilabel="first").load()) == 20


def test_a_split_column_can_be_left_unread(tmp_path: Path) -> None:
    path = str(plain(tmp_path, header="image,label,split", extra=lambda row: ",test"))
    with pytest.raises(DataError, match=r"no image is marked train, .* set data\.split=null"):
        csv(path, size=8).load()
    data = csv(path, size=8, split=None).load()
    assert torch.bincount(data.splits.long()).tolist() == [14, 4, 2]


def test_folders_of_test_images_alone_can_be_drawn_from(tmp_path: Path) -> None:
    write_folders(tmp_path, above="test")
    with pytest.raises(
        DataError, match=r"no image is marked train, .* leave it out of data\.layout"
    ):
        image_folder(str(tmp_path), layout="split/class", size=8).load()
    data = image_folder(str(tmp_path / "test"), layout="class", size=8).load()
    assert torch.bincount(data.splits.long()).tolist() == [14, 4, 2]


def test_unknown_and_empty_classes_are_refused(tmp_path: Path) -> None:
    path = str(plain(tmp_path))
    with pytest.raises(
        DataError,
        match=r"image pictures/01.png has the label 'melanoma'; known classes are nevus, wart",
    ):
        csv(path, classes=["nevus", "wart"]).load()
    with pytest.raises(DataError, match=r"^\S*images\.csv: class wart has no training image"):
        csv(path, classes=["nevus", "melanoma", "wart"]).load()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no.csv: cannot be read \(No such file"):
        csv(str(tmp_path / "no.csv")).load()
    with pytest.raises(DataError, match="nowhere: does not exist"):
        csv(str(plain(tmp_path)), str(tmp_path / "nowhere")).load()
    with pytest.raises(DataError, match=r"images.csv: no whole zip file"):
        csv(str(tmp_path / "images.csv"), str(tmp_path / "images.csv")).load()
    (tmp_path / "binary.csv").write_bytes(b"image,label\n\xff\xfe\x00,1\n")
    with pytest.raises(DataError, match=r"binary.csv: line 2 is not UTF-8 \(byte 0xff\)"):
        csv(str(tmp_path / "binary.csv")).load()
    with pytest.raises(DataError, match="has no column hospital"):
        csv(str(tmp_path / "images.csv"), site="hospital").load()


def test_folders_by_class(tmp_path: Path) -> None:
    write_folders(tmp_path)
    (tmp_path / "nevus" / "readme.txt").write_text("no image")
    (tmp_path / "nevus" / "._01.png").write_bytes(b"what a file manager leaves")
    (tmp_path / ".cache" / "inner").mkdir(parents=True)
    (tmp_path / ".cache" / "inner" / "00.png").write_bytes(encoded(NOISE))
    (tmp_path / "LICENSE").write_text("no image either")
    data = image_folder(str(tmp_path), size=8).load()
    assert data.class_names == ("melanoma", "nevus")
    assert torch.bincount(data.labels).tolist() == [10, 10]
    assert torch.bincount(data.splits.long()).tolist() == [14, 4, 2]
    assert data.skipped == {
        ".cache/": "hidden",
        "LICENSE": "no image, by its name, and not where images lie",
        "nevus/._01.png": "hidden",
        "nevus/readme.txt": "no image, by its name",
    }


def test_files_of_other_formats_are_read_refused_or_named(tmp_path: Path) -> None:
    """48 files of two classes, a quarter in formats by other names: all are accounted for."""
    write_folders(tmp_path, 20)
    other = tmp_path / "nevus"
    Image.fromarray(NOISE).save(other / "20.gif")
    Image.fromarray(NOISE).save(other / "21.jfif", "JPEG")
    Image.fromarray(NOISE).save(other / "22", "PNG")
    (other / "23.dcm").write_bytes(bytes(128) + b"DICM" + bytes(600))
    (other / "24.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(600))
    with pytest.raises(DataError, match=r"nevus/23\.dcm cannot be read \(a DICOM file that"):
        image_folder(str(tmp_path), size=8).load()
    for _ in range(2):  # the second time from the cache
        data = image_folder(str(tmp_path), size=8, on_broken="skip").load()
        assert data.skipped == {
            "nevus/23.dcm": "a DICOM file that does not say how it is encoded",
            "nevus/24.heic": "it is no JPEG, PNG, BMP, TIFF, WebP, GIF or DICOM",
        }
        assert torch.bincount(data.labels).tolist() == [20, 23]


def test_images_that_no_row_names_are_counted(tmp_path: Path) -> None:
    path = plain(tmp_path)
    picture(tmp_path / "pictures" / "mask.png")
    data = csv(str(path), size=8).load()
    assert data.skipped == {"pictures/mask.png": "no row of the table names it"}


def test_no_images_at_all_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"no images.*instead 1 other file, the first is notes"):
        image_folder(str(tmp_path), size=8).load()


@pytest.mark.parametrize("name", ["nan", "NaN", "<NA>", "NaT", "None", "null"])
def test_a_folder_may_be_called_as_an_empty_cell_is(tmp_path: Path, name: str) -> None:
    for number in range(10):
        picture(tmp_path / name / f"{number}.png")
        picture(tmp_path / "mel" / f"{number}.png")
    assert set(image_folder(str(tmp_path), size=8).load().class_names) == {name, "mel"}


@pytest.mark.parametrize("name", ["me\u202elanoma", "a\u2067b", "a\x9bb"])
def test_a_class_whose_name_turns_the_text_around_is_refused_in_one_line(
    tmp_path: Path, name: str
) -> None:
    for number in range(10):
        picture(tmp_path / name / f"{number}.png")
        picture(tmp_path / "mel" / f"{number}.png")
    with pytest.raises(DataError, match=r"the label .* a sign of text direction; rename") as caught:
        image_folder(str(tmp_path), size=8).load()
    assert str(caught.value).isprintable()
    with pytest.raises(ConfigError, match=r"data\.classes=.*without control signs"):
        image_folder(str(tmp_path), size=8, classes=["mel", name])


def test_folders_by_site_and_class_and_by_split(tmp_path: Path) -> None:
    for place in ("north", "south"):
        write_folders(tmp_path / "sites", above=place)
    data = image_folder(str(tmp_path / "sites"), layout="site/class", size=8).load()
    assert data.site_names == ("north", "south")
    assert torch.bincount(data.sites).tolist() == [20, 20]
    for split, count in (("train", 5), ("val", 2), ("test", 1)):
        write_folders(tmp_path / "splits", count, above=split)
    data = image_folder(str(tmp_path / "splits"), layout="split/class", size=8).load()
    assert torch.bincount(data.splits.long()).tolist() == [10, 4, 2]


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images; expected class/<image>"):
        image_folder(str(tmp_path)).load()
    write_folders(tmp_path)
    with pytest.raises(DataError, match=r"melanoma/00.png does not lie at site/class/<image>"):
        image_folder(str(tmp_path), layout="site/class").load()
    with pytest.raises(ConfigError, match=r"data.layout=class/site: must be one of"):
        image_folder(str(tmp_path), layout="class/site")


@pytest.mark.parametrize(
    "rubbish", [b"", b"no picture", encoded(NOISE)[:150]], ids=["empty", "text", "torn"]
)
def test_an_unreadable_image_stops_or_is_counted(tmp_path: Path, rubbish: bytes) -> None:
    path = str(plain(tmp_path))
    (tmp_path / "pictures" / "03.png").write_bytes(rubbish)
    with pytest.raises(DataError, match=r"pictures/03.png cannot be read .*data.on_broken=skip"):
        csv(path, size=8).load()
    for _ in range(2):  # the second time from the cache
        data = csv(path, size=8, on_broken="skip").load()
        assert list(data.skipped) == ["pictures/03.png"]
        assert len(data) == len(data.images) == 19
        assert tuple(data.images[3, :, 4, 4].tolist()) == COLOURS["nevus"]  # row 3 is now file 04
    with pytest.raises(DataError, match=r"pictures/03.png cannot be read"):
        csv(path, size=8).load()  # a cached skip does not soften the error


def test_a_subset_keeps_the_mix() -> None:
    # classes 90:10, sites 50:50
    labels, sites = torch.arange(1000) % 10 // 9, torch.arange(1000) // 500
    splits = torch.arange(1000) // 10 % 10 // 8
    chosen = subset(labels, sites, splits, 100, generator(0))
    assert len(chosen) == 100
    assert torch.bincount(labels[chosen]).tolist() == pytest.approx([90, 10], abs=2)
    assert torch.bincount(sites[chosen]).tolist() == pytest.approx([50, 50], abs=2)
    assert torch.equal(chosen, subset(labels, sites, splits, 100, generator(0)))
    assert not torch.equal(chosen, subset(labels, sites, splits, 100, generator(1)))
    assert torch.equal(subset(labels, sites, splits, None, generator(0)), torch.arange(1000))
    assert torch.equal(subset(labels, sites, splits, 5000, generator(0)), torch.arange(1000))
    with pytest.raises(ConfigError, match=r"data.max_images=7: there are 8 kinds .* try 24"):
        subset(labels, sites, splits, 7, generator(0))


def test_a_class_is_capped_with_the_same_mix_of_split_and_site() -> None:
    """600 images of class 0, of which 300 in each split and a third at site 1; 60 of class 1: a cap
    of 120 leaves a fifth of the first."""
    labels = torch.tensor([0] * 600 + [1] * 60)
    splits = torch.tensor([0, 2] * 330)
    sites = torch.tensor(([0] * 4 + [1] * 2) * 110)
    rows = chosen_rows(labels, sites, splits, ImageOptions(size=8, max_per_class=120), generator(0))
    assert torch.equal(rows, rows.sort().values)
    assert torch.bincount(labels[rows]).tolist() == [120, 60]
    first = rows[labels[rows] == 0]
    assert torch.bincount(splits[first]).tolist() == [60, 0, 60]
    assert torch.bincount(sites[first]).tolist() == [80, 40]
    both = chosen_rows(
        labels, sites, splits, ImageOptions(size=8, max_images=90, max_per_class=120), generator(0)
    )
    assert torch.bincount(labels[both]).tolist() == [60, 30]
    with pytest.raises(ConfigError, match=r"^data\.max_per_class=3: there are 4 kinds"):
        chosen_rows(labels, sites, splits, ImageOptions(size=8, max_per_class=3), generator(0))
    with pytest.raises(ConfigError, match=r"^data\.max_per_class=0"):
        ImageOptions(size=8, max_per_class=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"path": 3},
            r"data.path=3: must be a path; give the csv file; a name such as 2019.* twice",
        ),
        (
            {"path": None},
            r"data.path=None: must be a path; .* null .* is quoted twice: '\"2019\"'$",
        ),
        ({"path": ""}, "data.path=: must be a path; give the csv file"),
        ({"size": 4}, "data.size=4"),
        ({"size": "64"}, "data.size=64: must be a whole number"),
        ({"max_images": 0}, "data.max_images=0"),
        ({"on_broken": "ignore"}, "data.on_broken=ignore: must be one of error, skip"),
        ({"seed": None}, "data.seed=None"),
        ({"classes": "nevus"}, "data.classes=nevus"),
        ({"classes": ["a", "a"]}, "two or more different"),
    ],
)
def test_wrong_settings_are_refused_at_once(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        csv(**{"path": "some.csv", **settings})  # type: ignore[arg-type]
