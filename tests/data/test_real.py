"""The real images, where they are: numbers as their description states them."""

from pathlib import Path

import pytest
import torch

from fedrobust.data import reserve_server_data
from fedrobust.data.partition import by_site, class_table
from fedrobust.data.sources.csv_table import csv
from fedrobust.data.sources.ham10000 import ham10000
from fedrobust.data.sources.npz_archive import npz
from fedrobust.utils.seeding import generator


@pytest.fixture
def small(real_data: Path):  # type: ignore[no-untyped-def]
    return ham10000(str(real_data), size=16, max_images=400).load()


def test_ham10000_subset(small) -> None:  # type: ignore[no-untyped-def]
    assert len(small) == 400
    assert small.site_names == ("rosendahl", "vidir_modern", "vidir_molemax", "vienna_dias")
    # 4912 of the 7084 images are naevi: 69 %; the floor of one image per kind takes a little from
    # them
    assert 0.6 < (small.labels == 5).float().mean() < 0.70
    assert small.images.float().mean((0, 2, 3)).argmax() == 0  # skin is reddish


def test_ham10000_by_site(small) -> None:  # type: ignore[no-untyped-def]
    root, proxy, rest = reserve_server_data(small, 2, 30, generator(0))
    parts = by_site()(small, rest, 4, generator(0))
    assert [small.sites[part].unique().tolist() for part in parts] == [[0], [1], [2], [3]]
    assert class_table(small, parts).sum() == 400 - len(root) - len(proxy)


def test_ham10000_at_28_pixels_agrees_with_the_description(real_data: Path) -> None:
    data = npz(str(real_data / "ham10000_sites_trainval_28.npz")).load()
    assert torch.bincount(data.labels).tolist() == [223, 339, 752, 68, 693, 4912, 97]
    assert torch.bincount(data.sites).tolist() == [1529, 2110, 3160, 285]
    assert int((data.splits == 1).sum()) == 907


def test_pneumonia(real_data: Path) -> None:
    data = npz(
        str(real_data / "pneumoniamnist_rebuilt.npz"), classes=["normal", "pneumonia"]
    ).load()
    table = [torch.bincount(data.labels[data.splits == split]).tolist() for split in range(3)]
    assert table == [[1214, 3494], [135, 389], [234, 390]]
    assert torch.equal(data.images[:, 0], data.images[:, 2])


def test_mednist_by_its_table(real_data: Path) -> None:
    table, pictures = str(real_data / "mednist6_64x64.csv"), str(real_data / "mednist6_64x64.zip")
    data = csv(table, pictures, image="file", label="class", max_images=240).load()
    assert data.class_names == ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")
    assert torch.bincount(data.labels).tolist() == [40] * 6
