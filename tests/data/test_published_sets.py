"""Fed-ISIC2019, Camelyon17 and CheXpert in the layouts in which they are published."""

import gzip
from pathlib import Path

import pytest
import torch

from fedrobust.data.partition import by_site, class_table
from fedrobust.data.sources.camelyon17 import camelyon17
from fedrobust.data.sources.chexpert import chexpert
from fedrobust.data.sources.fed_isic2019 import CENTERS, CLASSES, fed_isic2019
from fedrobust.errors import ConfigError, DataError
from fedrobust.utils.seeding import generator
from tests.helpers.published_sets import write_camelyon17, write_chexpert, write_fed_isic2019


def counts(splits: torch.Tensor) -> list[int]:
    return torch.bincount(splits.long(), minlength=3).tolist()


def test_fed_isic2019_has_six_centres_and_flambys_test_fold(tmp_path: Path) -> None:
    data = fed_isic2019(str(write_fed_isic2019(tmp_path)), lesions="ignore", size=8).load()
    assert data.class_names == CLASSES
    assert data.site_names == CENTERS
    assert data.sites.tolist() == [number % 6 for number in range(240)]
    assert data.labels.tolist() == [number // 6 % 8 for number in range(240)]
    assert torch.equal(data.splits == 2, torch.arange(240) % 5 == 4)
    assert counts(data.splits)[1] > 0  # drawn from the train fold
    assert data.images[:, 0, 4, 4].tolist() == list(range(240))
    parts = by_site()(data, torch.arange(240), 6, generator(0))
    assert [data.sites[part].unique().tolist() for part in parts] == [[n] for n in range(6)]


def test_no_lesion_of_the_test_fold_is_trained_on(tmp_path: Path) -> None:
    data = fed_isic2019(str(write_fed_isic2019(tmp_path)), size=8).load()
    assert len(data) == 235  # of 240, images 0, 50, 100, 150, 200 show lesions of the test fold
    assert not {0, 50, 100, 150, 200} & set(data.images[:, 0, 4, 4].tolist())
    assert "240 images, 1 of unknown lesion, each its own group" in data.notes
    assert any(note.startswith("5 train images left out: the test fold") for note in data.notes)
    drawn = fed_isic2019(str(tmp_path), split="drawn", size=8).load()
    assert len(drawn) == 240
    assert len(drawn.groups.unique()) == 235


def test_without_a_table_of_lesions_each_image_is_its_own_group_and_this_is_said(
    tmp_path: Path,
) -> None:
    data = fed_isic2019(str(write_fed_isic2019(tmp_path, lesions=False)), size=8).load()
    assert len(data.groups.unique()) == len(data) == 240
    assert data.notes == ("240 images, 240 of unknown lesion, each its own group",)


def test_flambys_table_may_be_packed_and_lie_elsewhere(tmp_path: Path) -> None:
    root = write_fed_isic2019(tmp_path / "set")
    packed = tmp_path / "table.csv.gz"
    packed.write_bytes(gzip.compress((root / "train_test_split").read_bytes()))
    source = fed_isic2019(str(root), str(packed), size=8)
    assert source.load().digest == fed_isic2019(str(root), size=8).load().digest
    assert list(source.places()) == [root, packed]
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"is damaged gzip .*; fetch it again"):
        source.load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("0000003,0,3", "0000003,8,3"), "line 5 has the target '8'; it must be one of 0, 1, 2"),
        (("0000003,0,3", "0000003,0,6"), "line 5 has the center '6'; it must be one of 0, 1, 2"),
        (("ISIC_0000003", "ISIC_9"), "235 images, 1 not below .*, the first is ISIC_9; get ISIC_"),
    ],
)
def test_a_wrong_table_of_fed_isic2019_is_refused(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    table = write_fed_isic2019(tmp_path) / "train_test_split"
    table.write_text(table.read_text().replace(*change))
    with pytest.raises(DataError, match=message):
        fed_isic2019(str(tmp_path), size=8).load()


def test_rows_without_image_can_be_left_out_which_is_said(tmp_path: Path) -> None:
    root = write_fed_isic2019(tmp_path, lesions=False)
    (root / "ISIC_2019_Training_Input" / "ISIC_0000003.jpg").unlink()
    data = fed_isic2019(str(root), missing="skip", size=8).load()
    assert len(data) == 239
    assert data.notes[-1].endswith("the first is ISIC_0000003; these rows are left out")


def test_the_shared_part_of_fed_isic2019(real_data: Path) -> None:
    table = real_data / "fed_isic2019_centres.csv.gz"
    if not table.is_file():
        pytest.skip(f"no {table}")
    settings = {"missing": "skip", "every_class": False, "max_images": 120, "size": 8}
    pictures = real_data / "ham10000_sites_trainval_200x150.zip"
    data = fed_isic2019(str(pictures), str(table), **settings).load()  # type: ignore[arg-type]
    assert data.site_names == (*CENTERS[1:4], CENTERS[5])  # the centres of HAM10000
    assert len(data) == 120
    assert any("23247 images, 16163 not below" in note for note in data.notes)


def test_camelyon17_by_hospital(tmp_path: Path) -> None:
    data = camelyon17(str(write_camelyon17(tmp_path)), size=8).load()
    assert data.class_names == ("normal", "tumor")
    assert data.site_names == ("0", "1", "2", "3", "4")
    assert len(data.groups.unique()) == 240
    assert data.images[:, 0, 4, 4].tolist() == list(range(240))
    parts = by_site()(data, torch.arange(240), 5, generator(0))
    whole = camelyon17(str(tmp_path), group="patient", size=8).load()
    assert len(whole.groups.unique()) == 30
    assert torch.equal(whole.splits, data.splits)  # no patient is in two parts, either way
    # six patients a hospital, three of each class: one of them in each part
    assert class_table(data, parts, 0).tolist() == [[8, 8]] * 5
    assert class_table(data, parts, 2).tolist() == [[8, 8]] * 5


def test_camelyon17_with_the_parts_of_wilds(tmp_path: Path) -> None:
    root = write_camelyon17(tmp_path)
    data = camelyon17(str(root), split="wilds", size=8).load()
    parts = [set(data.sites[data.splits == split].tolist()) for split in range(3)]
    assert parts == [{0, 3, 4}, {1}, {2}]
    left_out = sum(number % 7 == 3 and number % 5 in (0, 3, 4) for number in range(240))
    assert len(data) == 240 - left_out
    assert data.notes == (f"{left_out} patches of WILDS' id_val part left out",)
    with pytest.raises(ConfigError, match="partition=by_site: site 1 has 0 train images"):
        by_site()(data, torch.arange(len(data)), 5, generator(0))


def test_camelyon17_in_its_unpacked_folder_and_with_lost_zeros(tmp_path: Path) -> None:
    root = write_camelyon17(tmp_path / "camelyon17_v1.0", 60)
    before = camelyon17(str(root), size=8).load()
    table = root / "metadata.csv"
    lines = [line.split(",") for line in table.read_text().splitlines()]
    for line in lines[1:]:
        line[1] = str(int(line[1]))
    table.write_text("\n".join(",".join(line) for line in lines))
    assert camelyon17(str(tmp_path), size=8).load().digest == before.digest


def test_wrong_camelyon17_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no metadata\.csv; get camelyon17_v1\.0 of WILDS"):
        camelyon17(str(tmp_path), size=8).load()
    table = write_camelyon17(tmp_path, 60) / "metadata.csv"
    good = table.read_text()
    table.write_text(good.replace("x_coord", "x"))
    with pytest.raises(DataError, match="has no column x_coord; its columns are patient, node"):
        camelyon17(str(tmp_path), size=8).load()
    table.write_text(good.replace("0,000,0,0,32,0,", "0,000,0,0,32,2,"))
    with pytest.raises(DataError, match="line 2 has the tumor 2; it must be 0 or 1"):
        camelyon17(str(tmp_path), size=8).load()


CELLS = ("1.0", "0.0", "-1.0", "")


@pytest.mark.parametrize(
    ("settings", "classes", "labels"),
    [
        ({}, ("negative", "positive"), [24, 12]),
        ({"uncertain": "positive"}, ("negative", "positive"), [24, 24]),
        ({"uncertain": "negative"}, ("negative", "positive"), [36, 12]),
        ({"uncertain": "class"}, ("negative", "positive", "uncertain"), [24, 12, 12]),
        ({"blank": "drop"}, ("negative", "positive"), [12, 12]),
    ],
)
def test_chexperts_uncertain_and_blank_labels(
    tmp_path: Path, settings: dict[str, str], classes: tuple[str, ...], labels: list[int]
) -> None:
    root = write_chexpert(tmp_path, 48, cells=CELLS)
    data = chexpert(str(root), size=8, **settings).load()  # type: ignore[arg-type]
    assert data.class_names == classes
    assert torch.bincount(data.labels).tolist() == labels
    left_out = 48 - sum(labels)
    note = f"Pleural Effusion: {left_out} images without a clear label left out"
    assert (note in data.notes) == (left_out > 0)


def test_chexperts_patients_parts_and_views(tmp_path: Path) -> None:
    root = write_chexpert(tmp_path / "CheXpert-v1.0-small", laterals=True)
    data = chexpert(str(tmp_path), size=8).load()
    assert len(data) == 240  # frontal ones only
    assert len(data.groups.unique()) == 120
    assert counts(data.splits)[2] == 40  # valid.csv
    assert len(chexpert(str(root), views="all", size=8).load()) == 480
    (root / "valid.csv").unlink()
    assert counts(chexpert(str(root), size=8).load().splits) == [140, 40, 20]


def test_a_column_of_chexpert_can_be_the_site(tmp_path: Path) -> None:
    table = write_chexpert(tmp_path, 48) / "train.csv"
    table.write_text(
        table.read_text().replace(
            "patient00000/study1/view1_frontal.jpg,Female",
            "patient00000/study1/view1_frontal.jpg,Male",
        )
    )
    assert chexpert(str(tmp_path), site="Sex", size=8).load().site_names == ("Female", "Male")
    with pytest.raises(DataError, match=r"has no column Clinic; .*; set data\.site to one"):
        chexpert(str(tmp_path), site="Clinic", size=8).load()


def test_wrong_chexpert_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.label=Effusion: must be one of No Finding, "):
        chexpert(str(tmp_path), label="Effusion")
    with pytest.raises(DataError, match=r"has no train\.csv; get CheXpert-v1\.0 from"):
        chexpert(str(tmp_path)).load()
    write_chexpert(tmp_path, 24, cells=("1.0", "2"))
    with pytest.raises(DataError, match="has '2' as Pleural Effusion; it must be 1, 0, -1 or blan"):
        chexpert(str(tmp_path)).load()
    with pytest.raises(DataError, match="has no column Fracture; its columns are Path, Sex"):
        chexpert(str(tmp_path), label="Fracture").load()
