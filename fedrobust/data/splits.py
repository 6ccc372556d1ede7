"""Train, validation and test in the ratio 7:2:1, whole groups (patients, lesions) at a time, each
class by itself.

A part that the source gives is kept. A part that is missing is drawn from the training
images and gets its 7:2:1 share of the whole set: HAM10000 given as train and validation ends as
about 77:13:10, its validation images untouched.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedrobust.data.dataset import TEST, TRAIN, VALIDATION
from fedrobust.errors import DataError

NO_TRAIN = "mark training images"  # remedy where no image is for training
RATIO = {TRAIN: 0.7, VALIDATION: 0.2, TEST: 0.1}


def complete_splits(
    splits_N: Tensor | None,
    labels_N: Tensor,
    groups_N: Tensor,
    generator: Generator,
    remedy: str = NO_TRAIN,
) -> Tensor:
    """(N,) int8 with all three splits: drawn where `splits_N` is None or lacks one, else the given
    ones.

    Raises DataError, with the remedy, when splits are given but none of them is train.
    """
    given = (
        torch.zeros(len(labels_N), dtype=torch.int8)
        if splits_N is None
        else splits_N.to(torch.int8)
    )
    if not (given == TRAIN).any():
        raise DataError(f"split: no image is marked train, so no other part can be drawn; {remedy}")
    missing = [part for part in (VALIDATION, TEST) if not (given == part).any()]
    result = given.clone()
    rows = (given == TRAIN).nonzero().reshape(-1)
    for class_rows, total in _by_class(rows, labels_N, groups_N):
        wanted = {part: RATIO[part] * total for part in missing}
        result[class_rows] = _deal(groups_N[class_rows], wanted, generator)
    return result


def _by_class(rows: Tensor, labels_N: Tensor, groups_N: Tensor) -> list[tuple[Tensor, int]]:
    """The training rows of each class, with the class's images in all splits. A group of several
    classes counts where most of it lies."""
    num_classes = int(labels_N.max()) + 1
    home_N = _main_class(labels_N, groups_N)
    return [
        (rows[home_N[rows] == k], int((home_N == k).sum()))
        for k in range(num_classes)
        if (home_N[rows] == k).any()
    ]


def _main_class(labels_N: Tensor, groups_N: Tensor) -> Tensor:
    """(N,) the class that most images of a row's group have, the lower one of two; in memory
    proportional to N, whatever the number of classes."""
    _, group_N = torch.unique(groups_N, return_inverse=True)
    pairs, counts = torch.unique(torch.stack([group_N, labels_N]), dim=1, return_counts=True)
    order = torch.sort(counts, descending=True, stable=True).indices
    order = order[torch.sort(pairs[0, order], stable=True).indices]
    _, sizes = torch.unique_consecutive(pairs[0, order], return_counts=True)
    main_class: Tensor = pairs[1, order[sizes.cumsum(0) - sizes]]
    return main_class[group_N]


def _deal(groups_n: Tensor, wanted: dict[int, float], generator: Generator) -> Tensor:
    """Splits (n,) int8 of one class's training rows: groups in random order, big ones first, each
    to the part that it fills least in proportion to what the part should get. While there are
    enough groups every part gets one; train comes first.
    """
    _, group_n, sizes = torch.unique(groups_n, return_inverse=True, return_counts=True)
    shuffled = torch.randperm(len(sizes), generator=generator)
    order: list[int] = shuffled[
        torch.sort(sizes[shuffled], descending=True, stable=True).indices
    ].tolist()
    targets = {part: max(images, 1.0) for part, images in wanted.items()}
    targets = {TRAIN: max(len(groups_n) - sum(targets.values()), 1.0), **targets}
    filled, part_of = dict.fromkeys(targets, 0), torch.zeros(len(sizes), dtype=torch.int8)
    for place, group in enumerate(order):
        size, empty = int(sizes[group]), [part for part in targets if not filled[part]]
        scarce = len(order) - place <= len(empty)
        part = (
            empty[0]
            if scarce
            else min(targets, key=lambda one: (filled[one] + size) / targets[one])
        )
        part_of[group] = part
        filled[part] += size
    return part_of[group_n]
