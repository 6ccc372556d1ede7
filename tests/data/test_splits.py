"""Splits and carving: by hand, and as laws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrobust.data import TRAIN, Origins, make_dataset, reserve_server_data
from fedrobust.data.splits import complete_splits
from fedrobust.errors import ConfigError, DataError
from fedrobust.utils.seeding import generator
from tests.helpers.datasets import one_pixel_dataset


def counts(splits: Tensor, labels: Tensor) -> list[list[int]]:
    """Images of each class (rows) in train, validation and test."""
    return [
        torch.bincount(splits[labels == k].long(), minlength=3).tolist()
        for k in range(int(labels.max()) + 1)
    ]


def test_seven_to_two_to_one_in_every_class() -> None:
    labels = torch.tensor([0] * 100 + [1] * 20 + [2] * 3)
    splits = complete_splits(None, labels, torch.arange(123), generator(0))
    # class 2 has three images: one for each part, though 10 % of 3 is less than one
    assert counts(splits, labels) == [[70, 20, 10], [14, 4, 2], [1, 1, 1]]


def test_lesions_with_many_images_lie_in_all_three_parts() -> None:
    # ten lesions of ten images and a hundred of one: 200 images, 140:40:20, and the big ones 7:2:1
    # as well
    groups = torch.cat([torch.arange(10).repeat_interleave(10), torch.arange(10, 110)])
    splits = complete_splits(None, torch.zeros(200, dtype=torch.int64), groups, generator(0))
    assert torch.bincount(splits.long()).tolist() == [140, 40, 20]
    assert torch.bincount(splits[:100].long()).tolist() == [70, 20, 10]


def test_a_missing_test_part_comes_out_of_train_alone() -> None:
    given_splits = torch.tensor([0] * 80 + [1] * 20, dtype=torch.int8)
    labels = torch.zeros(100, dtype=torch.int64)
    splits = complete_splits(given_splits, labels, torch.arange(100), generator(0))
    # a tenth of all 100 images, and the validation images stay what they were
    assert torch.bincount(splits.long()).tolist() == [70, 20, 10]
    assert (splits[80:] == 1).all()


def test_given_splits_stay_as_they_are() -> None:
    given_splits = torch.tensor([0, 2, 1, 0, 0, 2], dtype=torch.int8)
    splits = complete_splits(
        given_splits, torch.zeros(6, dtype=torch.int64), torch.arange(6), generator(0)
    )
    assert torch.equal(splits, given_splits)
    assert splits is not given_splits


def test_without_any_training_image_there_is_nothing_to_draw_from() -> None:
    with pytest.raises(DataError, match="no image is marked train"):
        complete_splits(
            torch.ones(5, dtype=torch.int8),
            torch.zeros(5, dtype=torch.int64),
            torch.arange(5),
            generator(0),
        )


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Labels and groups of 30 to 150 images; groups may hold several classes."""
    count, seed = draw(st.integers(30, 150)), draw(st.integers(0, 999))
    source = torch.Generator().manual_seed(seed)
    groups = torch.randint(count, (count,), generator=source)
    labels = torch.randint(draw(st.integers(1, 5)), (count,), generator=source)
    if draw(st.booleans()):
        labels = labels[groups]
    return torch.unique(labels, return_inverse=True)[1], groups


@given(data=grouped(), seed=st.integers(0, 9))
@settings(max_examples=40)
def test_no_group_straddles_and_the_ratio_is_near(data: tuple[Tensor, Tensor], seed: int) -> None:
    labels, groups = data
    splits = complete_splits(None, labels, groups, generator(seed))
    assert torch.equal(splits, complete_splits(None, labels, groups, generator(seed)))
    pairs = torch.unique(torch.stack([groups, splits.long()]), dim=1)
    assert pairs.shape[1] == len(groups.unique())
    classes, biggest = int(labels.max()) + 1, int(torch.bincount(groups).max())
    parts = torch.bincount(splits.long(), minlength=3)
    # each class is off by a group, or by the one image that a part gets at least
    for part, share in enumerate((0.7, 0.2, 0.1)):
        assert abs(int(parts[part]) - share * len(labels)) <= classes * 2 * (biggest + 1)


def test_carving_by_hand() -> None:
    labels = torch.tensor([0] * 100 + [1] * 50)
    data = one_pixel_dataset(labels)  # train: 70 and 35
    root, proxy, rest = reserve_server_data(data, 5, 20, generator(0))
    assert torch.bincount(labels[root]).tolist() == [5, 5]
    assert len(proxy) == 20
    assert len(rest) == 150 - 10 - 20
    assert (data.splits[torch.cat([root, proxy])] == TRAIN).all()


def test_carving_nothing_leaves_everything() -> None:
    data = one_pixel_dataset(torch.arange(60) % 3)
    root, proxy, rest = reserve_server_data(data, 0, 0, generator(0))
    assert len(root) == len(proxy) == 0
    assert torch.equal(rest, torch.arange(60))


@given(
    data=grouped(), per_class=st.integers(0, 3), proxy=st.integers(0, 10), seed=st.integers(0, 9)
)
@settings(max_examples=40)
def test_carved_parts_are_disjoint_whole_groups_of_train(
    data: tuple[Tensor, Tensor], per_class: int, proxy: int, seed: int
) -> None:
    labels, groups = data
    try:
        whole = one_pixel_dataset(labels, groups=groups)
        parts = reserve_server_data(whole, per_class, proxy, generator(seed))
    except (ConfigError, DataError):
        return  # too small for this request; the refusals have their own tests
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(labels)))
    root, public, rest = parts
    assert torch.bincount(labels[root], minlength=1).max() <= per_class
    assert len(public) <= proxy
    for one, two in ((root, public), (root, rest), (public, rest)):
        assert not torch.isin(groups[one], groups[two]).any()
    assert (whole.splits[torch.cat([root, public])] == TRAIN).all()
    assert all(
        torch.equal(one, two)
        for one, two in zip(
            parts, reserve_server_data(whole, per_class, proxy, generator(seed)), strict=True
        )
    )


def test_carving_too_much_is_refused_with_the_largest_possible_number() -> None:
    data = one_pixel_dataset(torch.tensor([0] * 100 + [1] * 20))  # train 70 and 14
    with pytest.raises(
        ConfigError,
        match=r"class class 1 has only 14 training images; try server\.root_per_class=7",
    ):
        reserve_server_data(data, 8, 0, generator(0))
    # half of 84, less the 2 x 7 of the root set
    with pytest.raises(ConfigError, match=r"try server\.proxy_images=28"):
        reserve_server_data(data, 7, 29, generator(0))
    assert len(reserve_server_data(data, 7, 28, generator(0))[1]) == 28


def test_a_root_set_smaller_than_every_group_is_refused() -> None:
    groups = torch.arange(20).repeat_interleave(5)
    data = one_pixel_dataset(torch.zeros(100, dtype=torch.int64), groups=groups)
    with pytest.raises(ConfigError, match="no whole group of class class 0 is that small"):
        reserve_server_data(data, 4, 0, generator(0))


@pytest.mark.parametrize(
    ("labels", "splits", "groups", "message"),
    [
        ([0, 1, 2, 0], [0, 0, 1, 2], [0, 1, 2, 3], "label 0..2 outside the 2 classes"),
        ([0, 0, 1, 0], [0, 1, 2, 0], [0, 1, 2, 3], "class b has no training image"),
        ([0, 1, 0, 1], [0, 0, 1, 2], [0, 1, 0, 3], "group 0 lies in more than one split"),
        ([0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 2, 3], "no test images"),
        ([], [], [], "no images"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused(
    labels: list[int], splits: list[int], groups: list[int], message: str
) -> None:
    images = torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8)
    with pytest.raises(DataError, match=f"^{message}"):
        make_dataset(
            "toy",
            images,
            torch.tensor(labels),
            ["a", "b"],
            Origins(torch.tensor(splits), groups=torch.tensor(groups)),
        )


def test_the_digest_sees_every_column() -> None:
    labels, splits = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 2])
    images = torch.zeros(4, 3, 1, 1, dtype=torch.uint8)
    base = make_dataset("toy", images, labels, ["a", "b"], Origins(splits))
    others = [
        make_dataset("toy", images + 1, labels, ["a", "b"], Origins(splits)),
        make_dataset("toy", images, 1 - labels, ["a", "b"], Origins(splits)),
        make_dataset("toy", images, labels, ["a", "b"], Origins(torch.tensor([0, 0, 2, 1]))),
        make_dataset(
            "toy",
            images,
            labels,
            ["a", "b"],
            Origins(splits, sites=torch.tensor([0, 0, 0, 1]), site_names=["x", "y"]),
        ),
        make_dataset(
            "toy", images, labels, ["a", "b"], Origins(splits, groups=torch.tensor([0, 0, 1, 2]))
        ),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 6
    assert (
        make_dataset("other", images.clone(), labels, ["c", "d"], Origins(splits)).digest
        == base.digest
    )
