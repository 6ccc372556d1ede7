"""npz archives, MedMNIST through a stand-in for its package, and HAM10000 in both layouts."""

import io
import os
import sys
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedrobust.data.partition import by_site, iid
from fedrobust.data.sources.ham10000 import CLASSES, ham10000
from fedrobust.data.sources.medmnist import medmnist
from fedrobust.data.sources.npz_archive import npz
from fedrobust.data.sources.one_site import one_site
from fedrobust.errors import ConfigError, DataError
from fedrobust.utils.seeding import generator
from tests.helpers.datasets import picture

Arrays = dict[str, NDArray[np.generic]]


def arrays(
    parts: tuple[str, ...] = ("train", "val", "test"), count: int = 20, grey: bool = False
) -> Arrays:
    """Images of one value each: 3 x row + 20 x position of the part."""
    made: Arrays = {}
    for position, part in enumerate(parts):
        values = (3 * np.arange(count) + 20 * position).astype(np.uint8)
        made[f"{part}_images"] = np.broadcast_to(values[:, None, None], (count, 6, 6)).copy()
        if not grey:
            made[f"{part}_images"] = np.repeat(made[f"{part}_images"][..., None], 3, axis=3)
        made[f"{part}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    return made


def saved(path: Path, made: Arrays) -> str:
    np.savez_compressed(path, allow_pickle=True, **made)  # type: ignore[arg-type]
    return str(path)


@pytest.mark.parametrize("grey", [True, False])
def test_npz_keeps_rows_and_splits(tmp_path: Path, grey: bool) -> None:
    data = npz(saved(tmp_path / "a.npz", arrays(grey=grey)), size=8).load()
    assert data.images.shape == (60, 3, 8, 8)
    assert torch.bincount(data.splits.long()).tolist() == [20, 20, 20]
    expected = torch.cat([3 * torch.arange(20) + 20 * position for position in range(3)])
    assert torch.equal(data.images[:, 2, 3, 3].long(), expected)
    assert data.class_names == ("0", "1")
    assert data.site_names == ("all",)


def test_npz_with_sites_names_and_a_missing_test_part(tmp_path: Path) -> None:
    made = arrays(("train", "val"), count=100)
    for part in ("train", "val"):
        made[f"{part}_sites"] = np.arange(100).astype(np.uint8)[:, None] // 40
    data = npz(
        saved(tmp_path / "a.npz", made), size=8, classes=["nevus", "melanoma"], name="mine"
    ).load()
    assert (data.name, data.class_names, data.site_names) == (
        "mine",
        ("nevus", "melanoma"),
        ("0", "1", "2"),
    )
    assert torch.bincount(data.splits.long()).tolist() == [80, 100, 20]
    small = npz(str(tmp_path / "a.npz"), size=8, max_images=60).load()
    assert len(small) == 60
    values = set(map(tuple, torch.stack([data.images[:, 0, 0, 0].long(), data.labels], 1).tolist()))
    assert all(
        tuple(row) in values
        for row in torch.stack([small.images[:, 0, 0, 0].long(), small.labels], 1).tolist()
    )


def test_sites_of_one_split_alone_are_said_and_refused_by_a_partition_by_site(
    tmp_path: Path,
) -> None:
    made = arrays()
    made["train_sites"] = np.arange(20) // 10
    path = saved(tmp_path / "a.npz", made)
    data = npz(path, size=8).load()
    reason = f"{path} has train_sites but no val_sites, test_sites, so that no site is known"
    assert data.site_names == ("all",)
    assert data.notes == (reason,)
    rows = torch.arange(len(data))
    assert len(iid()(data, rows, 2, generator(0))) == 2
    with pytest.raises(ConfigError) as caught:
        by_site()(data, rows, 2, generator(0))
    assert str(caught.value) == (
        f"partition=by_site: {reason}; give every split its sites, or choose another partition, "
        "e.g. partition=iid"
    )
    with pytest.raises(DataError, match=r"npz: site 1 cannot be told from others: .*train_sites"):
        one_site(npz(path, size=8), 1).load()
    for part in ("val", "test"):
        made[f"{part}_sites"] = np.arange(20) // 10
    whole = npz(saved(tmp_path / "b.npz", made), size=8)
    assert (whole.load().site_names, whole.load().notes) == (("0", "1"), ())
    assert len(one_site(whole, 1).load()) == 30


def test_an_archive_of_test_images_alone_says_how_to_name_them(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no image is marked train, .* as train_images and train_l"
    ):
        npz(saved(tmp_path / "a.npz", arrays(("test",))), size=8).load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": None, "val_images": None, "test_images": None}, "has no train_images"),
        ({"val_labels": None}, "has no val_labels"),
        ({"train_labels": np.zeros((20, 14), np.uint8)}, "one class per image"),
        ({"train_labels": np.zeros(20, np.float32)}, "needed are whole numbers"),
        ({"train_labels": np.zeros(19, np.uint8)}, "train_images has 20 rows, train_labels 19"),
        ({"train_labels": np.full(20, -1)}, "numbers start at 0"),
        ({"train_images": np.zeros((20, 6, 6), np.float32)}, "train_images is float32"),
        ({"train_images": np.zeros((20, 6, 6, 6), np.uint8)}, "needed is uint8"),
        (
            {"train_labels": np.array([{}] * 20, dtype=object)},
            "train_labels holds pickled objects",
        ),
        (
            {"train_images": np.array([{}] * 20, dtype=object)},
            "train_images holds pickled objects",
        ),
        ({"train_labels": np.r_[np.zeros(19, "i8"), 2**40]}, "holds 1099511627776; .*below 10000"),
        (
            {"train_labels": np.r_[np.zeros(19, "u8"), np.uint64(2**63 + 1)].astype("u8")},
            "train_labels holds 9223372036854775809",
        ),
        ({"train_images": np.zeros((20, 0, 6), np.uint8)}, "images of 0x6 pixels"),
        ({"train_labels": np.full(20, 2)}, "class 0 has no training image"),
    ],
)
def test_a_wrong_archive_is_refused(
    tmp_path: Path, change: dict[str, NDArray[np.generic] | None], message: str
) -> None:
    made = {key: value for key, value in {**arrays(), **change}.items() if value is not None}
    path = saved(tmp_path / "wrong.npz", made)
    with pytest.raises(DataError, match=f"wrong.npz: .*{message}"):
        npz(path, size=8).load()


def test_no_archive_at_all(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").touch()
    for name in ("text.npz", "empty.npz", "missing.npz"):
        with pytest.raises(DataError, match=f"{name}: not a readable npz file"):
            npz(str(tmp_path / name)).load()
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"one\.npy: holds a single array"):
        npz(str(tmp_path / "one.npy")).load()


def fake_package(folder: Path, size: int, error: Exception | None = None) -> SimpleNamespace:
    """Our uses of the package `medmnist`: INFO and a class that fetches on construction."""

    def fetch(split: str, download: bool, size: int, root: str) -> None:
        assert (split, download, root) == ("train", True, str(folder))
        if error is not None:
            raise error
        saved(
            folder / ("bloodmnist.npz" if size == 28 else f"bloodmnist_{size}.npz"),
            arrays(grey=True),
        )

    info = {
        "bloodmnist": {"python_class": "BloodMNIST", "label": {"0": "basophil", "1": "eosinophil"}}
    }
    return SimpleNamespace(INFO=info, BloodMNIST=fetch)


@pytest.mark.parametrize("size", [28, 64])
def test_medmnist_fetches_and_names_its_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setitem(sys.modules, "medmnist", fake_package(tmp_path, size))
    data = medmnist("bloodmnist", size, str(tmp_path)).load()
    assert (data.name, data.class_names) == ("bloodmnist", ("basophil", "eosinophil"))
    assert data.images.shape == (60, 3, size, size)


def test_medmnist_offline_or_absent_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sys.modules, "medmnist", fake_package(tmp_path, 28, RuntimeError("Something went\nwrong"))
    )
    with pytest.raises(
        DataError,
        match=r"bloodmnist could not be fetched \(Something went wrong\); put the file into",
    ):
        medmnist("bloodmnist", root=str(tmp_path)).load()
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(DataError, match=r"the package is not installed; pip install"):
        medmnist("bloodmnist", root=str(tmp_path)).load()


@pytest.mark.parametrize(
    ("flag", "size", "message"),
    [("chestmnist", 28, "data.flag=chestmnist"), ("pathmnist", 32, "data.size=32")],
)
def test_medmnist_refuses_what_it_does_not_have(flag: str, size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        medmnist(flag, size)


def test_medmnist_s_root_must_be_a_path() -> None:
    with pytest.raises(ConfigError, match=r"data\.root=3: must be a path"):
        medmnist(root=3)  # type: ignore[arg-type]


def ham_rows(split: bool = False) -> list[str]:
    """Seven classes of 12 lesions, every third with two images; two sites by turns."""
    rows = ["lesion_id,image_id,dx,dataset" + (",split" if split else "")]
    for kind, dx in enumerate(CLASSES):
        for lesion in range(12):
            for image in range(1 + (lesion % 3 == 0)):
                end = f",{('train', 'train', 'train', 'val')[lesion % 4]}" if split else ""
                site = ("rosendahl", "vidir_modern")[lesion % 2]
                rows.append(f"HAM_{kind}_{lesion},ISIC_{kind}{lesion:02}{image},{dx},{site}{end}")
    return rows


def ham_pictures(folder: Path) -> None:
    for row in ham_rows()[1:]:
        picture(folder / f"{row.split(',')[1]}.jpg", (int(row.split("_")[1]) * 30, 0, 0))


def test_official_ham10000(tmp_path: Path) -> None:
    ham_pictures(tmp_path / "HAM10000_images_part_1")
    (tmp_path / "HAM10000_metadata.csv").write_text("\n".join(ham_rows()))
    data = ham10000(str(tmp_path), size=8).load()
    assert data.class_names == CLASSES
    assert torch.bincount(data.labels).tolist() == [16] * 7
    assert data.site_names == ("rosendahl", "vidir_modern")
    assert len(data.groups.unique()) == 84
    assert torch.equal(data.images[:, 0, 4, 4].long() // 30, data.labels)
    pairs = torch.unique(torch.stack([data.groups, data.splits.long()]), dim=1)
    assert pairs.shape[1] == 84
    (tmp_path / "HAM10000_metadata.csv").rename(tmp_path / "HAM10000_metadata")
    assert ham10000(str(tmp_path), size=8).load().digest == data.digest


def test_files_beside_ham10000_are_named_as_they_lie(tmp_path: Path) -> None:
    ham_pictures(tmp_path / "HAM10000_images_part_1")
    picture(tmp_path / "masks" / "ISIC_0000_segmentation.png", (255, 255, 255))
    (tmp_path / "HAM10000_metadata.csv").write_text("\n".join(ham_rows()))
    skipped = ham10000(str(tmp_path), size=8).load().skipped
    assert skipped == {"masks/ISIC_0000_segmentation.png": "no row of the table names it"}


def test_ham10000_with_sites_in_a_zip(tmp_path: Path) -> None:
    ham_pictures(tmp_path / "pictures")
    (tmp_path / "shared").mkdir()
    with zipfile.ZipFile(tmp_path / "shared" / "ham10000_small.zip", "w") as archive:
        for path in sorted((tmp_path / "pictures").iterdir()):
            archive.write(path, f"site/{path.name}")
    (tmp_path / "shared" / "ham10000_small.csv").write_text("\n".join(ham_rows(split=True)))
    data = ham10000(str(tmp_path / "shared"), size=8).load()
    assert torch.equal(data.images[:, 0, 4, 4].long() // 30, data.labels)
    # lesions 3, 7, 11 of each class were given as validation: 2 + 1 + 1 images; the test part is a
    # tenth of 16, from train
    assert torch.bincount(data.splits.long()).tolist()[1] == 7 * 4
    assert 7 <= int((data.splits == 2).sum()) <= 7 * 3
    assert data.site_names == ("rosendahl", "vidir_modern")


def test_ham10000_errors_name_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.root=.*nowhere: no such folder; get HAM10000 from"):
        ham10000(str(tmp_path / "nowhere")).load()
    with pytest.raises(DataError, match="holds neither HAM10000_metadata nor"):
        ham10000(str(tmp_path)).load()
    (tmp_path / "HAM10000_metadata").write_text("\n".join(ham_rows()))
    ham_pictures(tmp_path / "images")
    (tmp_path / "images" / "ISIC_0000.jpg").unlink()
    with pytest.raises(
        DataError, match=r"112 images, 1 not below .*, the first is ISIC_0000; get HAM"
    ):
        ham10000(str(tmp_path)).load()
    with pytest.raises(ConfigError, match=r"data.root=None: must be a path; get HAM10000 from"):
        ham10000(None)  # type: ignore[arg-type]


def test_ham10000_with_all_splits_drawn(tmp_path: Path) -> None:
    ham_pictures(tmp_path / "images")
    (tmp_path / "ham10000_small.csv").write_text("\n".join(ham_rows(split=True)))
    data = ham10000(str(tmp_path), size=8, split="drawn").load()
    # 16 images in 12 lesions of each class: 11.2 : 3.2 : 1.6 by whole lesions, not the 4 validation
    # images that the table names
    given = ham10000(str(tmp_path), size=8).load()
    assert not torch.equal(data.splits, given.splits)
    counts = torch.bincount(data.splits.long()).tolist()
    assert 7 * 10 <= counts[0] <= 7 * 12
    assert 7 * 3 <= counts[1] <= 7 * 4
    assert torch.unique(torch.stack([data.groups, data.splits.long()]), dim=1).shape[1] == 84
    with pytest.raises(ConfigError, match=r"data\.split=random: must be one of given, drawn"):
        ham10000(str(tmp_path), split="random")


def claimed(path: Path, key: str, descr: str, shape: tuple[int, ...], content: bytes) -> str:
    """An archive with one array whose header claims that type and shape."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    made = {name: one for name, one in arrays().items() if name != key}
    saved(path, made)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{key}.npy", head.getvalue() + content)
    return str(path)


@pytest.mark.parametrize(
    ("key", "descr", "shape", "content", "message"),
    [
        ("train_labels", "<i8", (1 << 45,), bytes(160), "claims int64 .* the archive holds 160"),
        ("train_images", "|u1", (20, 1 << 20, 1 << 20), bytes(720), "the archive holds 720"),
        ("train_images", "|u1", (3 << 12, 32, 32), bytes(3 << 22), "has 12288 rows, .*labels 20"),
        ("train_images", "|u1", (20, 60_000, 1_000), b"", "archive holds 0"),
    ],
)
def test_an_array_is_what_its_header_claims_or_refused_unread(
    tmp_path: Path, key: str, descr: str, *, shape: tuple[int, ...], content: bytes, message: str
) -> None:
    path = claimed(tmp_path / "bomb.npz", key, descr, shape, content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=f"bomb.npz: {key} .*{message}"):
            npz(path, size=8).load()
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_npz_images_are_read_in_pieces(tmp_path: Path) -> None:
    """20 MB of images from 20 KB on disk: a piece of 4 MB in memory at a time."""
    made = arrays(("val", "test")) | {
        "train_images": np.zeros((300, 256, 256), np.uint8),
        "train_labels": np.arange(300) % 2,
    }
    path = saved(tmp_path / "large.npz", made)
    del made
    tracemalloc.start()
    try:
        assert len(npz(path, size=8, max_images=100).load()) == 100
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_npz_in_column_order_and_out_of_order_gives_the_same(tmp_path: Path) -> None:
    made = arrays()
    plain = npz(saved(tmp_path / "a.npz", made), size=8).load()
    turned = {key: np.asfortranarray(value) for key, value in made.items()}
    np.savez(tmp_path / "b.npz", allow_pickle=True, **turned)  # type: ignore[arg-type]
    assert npz(str(tmp_path / "b.npz"), size=8).load().digest == plain.digest


def test_npz_is_known_by_its_content(tmp_path: Path) -> None:
    """The same size, time and checksum in the archive's directory, but other pixels."""
    path = tmp_path / "a.npz"
    np.savez(path, allow_pickle=True, **arrays())  # type: ignore[arg-type]
    before = npz(str(path), size=8).load()
    os.utime(path, (1e9, 1e9))
    content = bytearray(path.read_bytes())
    content[2_000] ^= 1  # inside the first images
    path.write_bytes(content)
    os.utime(path, (1e9, 1e9))
    with pytest.raises(DataError, match=r"not a readable npz file \(Bad CRC-32"):
        npz(str(path), size=8).load()
    assert len(before) == 60


def test_npz_packed_in_an_unbounded_way_is_refused(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.npz", arrays())
    with (
        zipfile.ZipFile(source) as old,
        zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_BZIP2) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(DataError, match="encrypted or compressed in an unusual way"):
        npz(str(tmp_path / "b.npz"), size=8).load()
