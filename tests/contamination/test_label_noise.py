"""Pair and instance-dependent label noise, and classes given by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.contamination.backdoors.patch import backdoor_patch
from fedrobust.contamination.labels.label_flip import label_flip
from fedrobust.contamination.labels.label_noise import label_instance, label_pair
from fedrobust.errors import ConfigError
from fedrobust.utils.seeding import generator

NAMES = ("mel", "nv", "bkl", "df")


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 12, 10, generator=generator(seed, "pictures"))


def test_pairs_golden() -> None:
    labels = torch.tensor([0, 1, 2, 3, 0])
    images = pictures(5)
    assert label_pair(rate=1.0, num_classes=4).data(images, labels, generator(0))[1].tolist() == [
        1,
        2,
        3,
        0,
        1,
    ]
    named = label_pair(rate=1.0, pairs=[["mel", "nv"], ["df", 2]], num_classes=4, class_names=NAMES)
    after = named.data(images, labels, generator(0))
    assert after[0] is images
    assert after[1].tolist() == [1, 1, 2, 2, 1]


@settings(max_examples=40)
@given(rate=st.floats(0, 1), n=st.integers(0, 50), seed=st.integers(0, 2**31), named=st.booleans())
def test_pairs_hit_an_exact_share_of_the_classes_concerned(
    rate: float, n: int, seed: int, named: bool
) -> None:
    labels = torch.randint(4, (n,), generator=torch.Generator().manual_seed(seed))
    noise = label_pair(rate=rate, pairs=[[1, 3]] if named else None, num_classes=4)
    after = noise.data(torch.zeros(n, 3, 2, 2), labels, generator(seed))[1]
    eligible = int((labels == 1).sum()) if named else n
    changed = after != labels
    assert int(changed.sum()) == round(rate * eligible)
    assert torch.equal(
        after[changed], torch.full_like(after[changed], 3) if named else (labels[changed] + 1) % 4
    )


@pytest.mark.parametrize(
    "wrong",
    [
        "mel",
        [],
        [["mel"]],
        [["mel", "mel"]],
        [["mel", "xx"]],
        [[0, 1], [0, 2]],
        [[0, 9]],
        ["ab", "cd"],
        3,
    ],
)
def test_pairs_must_be_pairs(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"contamination\.pairs"):
        label_pair(pairs=wrong, num_classes=4, class_names=NAMES)


@settings(max_examples=30)
@given(rate=st.floats(0, 1), n=st.integers(0, 40), seed=st.integers(0, 2**31))
def test_errors_by_instance_hit_an_exact_share_and_never_the_right_class(
    rate: float, n: int, seed: int
) -> None:
    labels = torch.arange(n) % 4
    images = pictures(n, seed)
    after = label_instance(rate=rate, num_classes=4).data(images, labels, generator(seed))
    assert after[0] is images
    assert int((after[1] != labels).sum()) == round(rate * n)
    assert n == 0 or 0 <= int(after[1].min()) <= int(after[1].max()) < 4


def test_the_same_picture_is_mistaken_alike_and_annotators_differ() -> None:
    # 200 pictures of class 0, all wrong; the drawn class follows from the picture, hardly from the
    # generator
    labels, images = torch.zeros(200, dtype=torch.int64), pictures(200)

    def mistaken(draw: int, annotators: int) -> torch.Tensor:
        return label_instance(rate=1.0, annotators=annotators, num_classes=4).data(
            images, labels, generator(draw)
        )[1]

    first = mistaken(0, 0)
    assert float((mistaken(1, 0) == first).float().mean()) > 0.8
    assert float((mistaken(1, 1) == first).float().mean()) < 0.5  # a third by chance
    assert (torch.bincount(first, minlength=4)[1:] > 20).all()  # and not by the class alone


def test_classes_by_name() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    flip = label_flip(mode="targeted", source="mel", target="nv", num_classes=4, class_names=NAMES)
    assert flip.data(pictures(4), labels, generator(0))[1].tolist() == [1, 1, 2, 3]
    door = backdoor_patch(target="df", num_classes=4, class_names=NAMES).backdoor
    assert door is not None
    assert door.target == 3
    with pytest.raises(
        ConfigError,
        match=r"contamination\.source=melanoma: must be a class number from 0 to 3 or "
        r"one of mel, nv, bkl, df",
    ):
        label_flip(
            mode="targeted", source="melanoma", target="nv", num_classes=4, class_names=NAMES
        )
    with pytest.raises(
        ConfigError, match=r"contamination\.target=nv: must be a class number from 0 to 3$"
    ):
        label_flip(mode="targeted", source=0, target="nv", num_classes=4)
