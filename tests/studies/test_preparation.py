"""`fedrobust prepare`: where a set is to be had, whether a folder is whole, a table of it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from fedrobust.commands import prepare
from fedrobust.data import published
from fedrobust.data.published import PUBLISHED
from fedrobust.data.sources.camelyon17 import camelyon17
from fedrobust.data.sources.chexpert import chexpert
from fedrobust.data.sources.csv_table import csv
from fedrobust.data.sources.fed_isic2019 import CLASSES, fed_isic2019
from fedrobust.data.sources.ham10000 import CLASSES as HAM10000
from fedrobust.data.sources.ham10000 import ham10000
from fedrobust.experiment.choices import choice_names
from tests.helpers.datasets import encoded, picture
from tests.helpers.published_sets import write_camelyon17, write_chexpert, write_fed_isic2019


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What is printed, errors below it."""
    found = prepare.main(list(words))
    shown = capsys.readouterr()
    assert found == code, shown.err
    assert shown.err.count("\n") == (1 if code else 0)
    return shown.out + shown.err


def ready(text: str) -> str:
    return text.split("ready: fedrobust simulate ")[1].split("\n", maxsplit=1)[0]


def test_every_set_says_where_it_is_and_under_which_licence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = said(capsys)
    for name, one in PUBLISHED.items():
        assert name in choice_names("data")
        assert name in prepare.EPILOG
        assert f"  get it:  {one.address}; fedrobust downloads nothing" in text
        assert f"  licence: {one.licence} (docs/licences.md)" in text
        assert text.count(f"fedrobust prepare {name} <folder>") == 1
    alone = said(capsys, "camelyon17")
    assert alone in text
    assert "CheXpert" not in alone


def test_a_whole_folder_is_counted_by_site_and_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_camelyon17(tmp_path, 60)
    text = said(capsys, "camelyon17", str(root))
    assert f"{root / 'metadata.csv'}: 60 rows (455,954 published)" in text
    assert [line.split() for line in text.splitlines()[1:7]] == [
        ["site", "normal", "tumor"],
        *([str(center), "6", "6"] for center in range(5)),
    ]
    assert f"{root}: 60 images there, 0 missing, 0 damaged, 0 that no row names" in text
    assert ready(text) == f"data=camelyon17 data.root={root} partition=by_site num_clients=5"


def test_missing_and_damaged_images_are_named_and_can_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_fed_isic2019(tmp_path / "set")
    folder = root / "ISIC_2019_Training_Input"
    (folder / "ISIC_0000007.jpg").unlink()
    damaged = folder / "ISIC_0000008.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    picture(folder / "other.png")
    text = said(capsys, "fed_isic2019", str(root), code=2)
    assert "239 images there, 1 missing, 1 damaged, 1 that no row names" in text
    assert "  ISIC_0000007: not there" in text
    assert "  ISIC_2019_Training_Input/ISIC_0000008.jpg: " in text
    assert "1 missing and 1 damaged; get these files again, or leave them out by --skip" in text
    quick = said(capsys, "fed_isic2019", str(root), "--quick", code=2)
    assert "1 missing, not opened" in quick
    left = said(capsys, "fed_isic2019", str(root), "--skip", "--to", str(tmp_path / "out"))
    assert f"{tmp_path / 'out' / 'fed_isic2019.csv'}: 233 rows" in left  # five lesions less, too
    assert "note: 5 train images left out: the test fold shows the same lesion" in left


def test_the_table_reads_as_the_source_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_fed_isic2019(tmp_path / "set")
    text = said(capsys, "fed_isic2019", str(root), "--to", str(tmp_path / "out"))
    path = tmp_path / "out" / "fed_isic2019.csv"
    words = f"data=csv data.path={path} data.root={root} 'data.classes=[{','.join(CLASSES)}]'"
    assert ready(text) == f"{words} partition=by_site num_clients=6"
    data = csv(str(path), str(root), classes=CLASSES, size=8).load()
    assert data.digest == fed_isic2019(str(root), size=8).load().digest
    again = said(capsys, "fed_isic2019", str(root), "--to", str(tmp_path / "out"), code=2)
    assert "is there already and not empty; choose a new folder" in again


def test_copies_have_the_pixels_and_parts_of_the_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = write_camelyon17(tmp_path / "set", 60), tmp_path / "out"
    said(capsys, "camelyon17", str(root), "--to", str(out), "--size", "16")
    assert (out / "camelyon17.csv").read_text().startswith("image,label,split,site\nimages/000/")
    data = csv(str(out / "camelyon17.csv"), size=16).load()
    assert data.digest == camelyon17(str(root), size=16).load().digest


def test_settings_of_the_source_make_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_chexpert(tmp_path / "set", 48, cells=("1.0", "0.0", "-1.0", ""))
    words = ("chexpert", str(root), "uncertain=class", "split=drawn")
    text = said(capsys, *words, "--to", str(tmp_path / "out"))
    assert "48 rows (223,648 published)" in text
    classes = ("negative", "positive", "uncertain")
    data = csv(str(tmp_path / "out" / "chexpert.csv"), str(root), classes=classes, size=8).load()
    own = chexpert(str(root), uncertain="class", split="drawn", size=8).load()
    assert data.digest == own.digest
    assert "data.uncertain=class data.split=drawn" in ready(said(capsys, *words))


def test_ham10000_in_zips_needs_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / "set", tmp_path / "out"
    root.mkdir()
    rows = ["lesion_id,image_id,dx,dataset"]
    with zipfile.ZipFile(root / "HAM10000_images_part_1.zip", "w") as archive:
        for number in range(70):
            rows.append(f"L{number},ISIC_{number:04},{HAM10000[number % 7]},site{number % 2}")
            pixels = np.full((8, 8, 3), number, np.uint8)
            archive.writestr(f"ISIC_{number:04}.jpg", encoded(pixels, "JPEG"))
    (root / "HAM10000_metadata").write_text("\n".join(rows))
    text = said(capsys, "ham10000", str(root), "--to", str(out), code=2)
    assert "70 rows (10,015 published)" in text
    assert "the images lie in several zips" in text
    assert not out.exists()
    said(capsys, "ham10000", str(root), "--to", str(out), "--size", "8")
    data = csv(str(out / "ham10000.csv"), size=8, classes=HAM10000).load()
    assert data.digest == ham10000(str(root), size=8).load().digest


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["camelyon"], "camelyon: unknown set; did you mean camelyon17? known are ham10000, "),
        (["camelyon17", "--to", "out"], "camelyon17: give the folder of its files first"),
        (["camelyon17", ".", "--size", "16"], "--size=16: is the side of copies; name their"),
        (["camelyon17", ".", "--size", "2"], "--size=2: must be at least 8"),
        (
            ["chexpert", ".", "labels=Edema"],
            "data.labels=Edema: unknown setting; did you mean label",
        ),
        (["chexpert", ".", "label"], "label: is no setting of the data set; write <key>=<value>"),
        (["medmnist", "."], "has no <flag>.npz or <flag>_<size>.npz, e.g. pneumoniamnist.npz"),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    words: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(write_chexpert(tmp_path, 12))
    assert line in said(capsys, *words, code=2)


def test_files_of_medmnist_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"train": 6, "val": 2, "test": 3}
    parts: dict[str, np.ndarray] = {}
    for part, count in counts.items():
        parts[f"{part}_images"] = np.zeros((count, 28, 28), np.uint8)
        parts[f"{part}_labels"] = np.zeros((count, 1), np.uint8)
    path = tmp_path / "pneumoniamnist.npz"
    np.savez(path, allow_pickle=True, **parts)
    wrong = said(capsys, "medmnist", str(tmp_path), code=2)
    assert f"{path}: has 6 + 2 + 3 images, published are 4,708 + 524 + 624; get it again" in wrong
    monkeypatch.setitem(published.MEDMNIST_COUNTS, "pneumoniamnist", (6, 2, 3))  # type: ignore[arg-type]
    whole = said(capsys, "medmnist", str(tmp_path))
    assert (
        ready(whole) == f"data=medmnist data.flag=pneumoniamnist data.size=28 data.root={tmp_path}"
    )
    path.write_bytes(encoded(np.zeros((8, 8, 3), np.uint8)))
    assert "pneumoniamnist.npz: is damaged" in said(capsys, "medmnist", str(tmp_path), code=2)
