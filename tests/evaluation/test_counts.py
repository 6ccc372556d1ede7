"""Rounded counts of a site's predictions: what they hide, and what metrics they still give."""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import pytest
import torch
from torch import Tensor

from fedrobust.errors import ConfigError
from fedrobust.evaluation.counts import (
    MinCell,
    RoundedCounts,
    count_images,
    counted_metrics,
    measure,
    round_counts,
)
from fedrobust.evaluation.metrics import classification_metrics
from fedrobust.utils.validation import check


def counts_of(matrix: Tensor, min_cell: int) -> RoundedCounts:
    """The rounded counts of predictions with this confusion matrix."""
    classes = len(matrix)
    pairs = torch.repeat_interleave(torch.arange(classes**2), matrix.reshape(-1))
    return round_counts(pairs // classes, pairs % classes, classes, min_cell)


def test_cells_are_rounded_down_and_small_ones_look_empty() -> None:
    counts = counts_of(torch.tensor([[23, 4, 0], [5, 9, 1], [0, 0, 2]]), 5)
    assert counts.cells_KK.tolist() == [[20, 0, 0], [5, 5, 0], [0, 0, 0]]
    # 44 images
    assert (counts.images, counts.rest, counts.min_cell) == (40, 10, 5)


@pytest.mark.parametrize("min_cell", [3, 4, 5])
def test_no_cell_can_be_recomputed_from_all_that_is_told(min_cell: int) -> None:
    """All matrices of two classes with up to so many images: whatever is told, also to who knows
    the rule, fits several values of each cell. (4 divides the number of cells, the special case.)
    """
    most = 4 * (min_cell - 1) + min_cell
    fitting: dict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
    for cells in product(range(most + 1), repeat=4):
        if sum(cells) > most:
            continue
        counts = counts_of(torch.tensor(cells).view(2, 2), min_cell)
        fitting[counts.images, *counts.cells_KK.reshape(-1).tolist()].append(cells)
    whole = {told: found for told, found in fitting.items() if told[0] + min_cell <= most}
    assert len(whole) > 5
    for told, found in whole.items():
        assert all(len(set(values)) > 1 for values in zip(*found, strict=True)), told


def test_without_rounding_the_metrics_are_those_of_the_predictions() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (60,), generator=g)  # class 4 has no image
    scores = torch.rand(60, 5, generator=g).softmax(dim=1)
    counts = round_counts(labels, scores.argmax(dim=1), 5, 1)
    exact, found = classification_metrics(scores, labels), measure(counts)
    for name in ("accuracy", "balanced_accuracy", "f1", "precision", "n"):
        assert found[name] == pytest.approx(exact[name]), name
    assert (found["auroc"], found["ece"]) == (None, None)
    assert count_images(counts) == count_images((scores, labels)) == 60


def test_the_rest_is_spread_evenly_over_the_cells() -> None:
    # 40 + 20 images in cells, 8 of the rest: 2 for each of four cells
    counts = RoundedCounts(torch.tensor([[40, 0], [0, 20]]), 68, 4)
    found = counted_metrics(counts)
    assert found["n"] == 68
    assert found["accuracy"] == pytest.approx(100 * 64 / 68)
    assert found["balanced_accuracy"] == pytest.approx(50 * (42 / 44 + 22 / 24))
    assert found["precision"] == pytest.approx(50 * (42 / 44 + 22 / 24))
    # a class of which no cell is told is left out of the means, not of the accuracy
    rare = RoundedCounts(torch.tensor([[40, 0], [0, 0]]), 44, 4)
    assert counted_metrics(rare)["balanced_accuracy"] == pytest.approx(100 * 41 / 42)
    assert counted_metrics(rare)["accuracy"] == pytest.approx(100 * 42 / 44)


@pytest.mark.parametrize(("images", "defined"), [(80, True), (84, False), (0, False)])
def test_metrics_need_half_of_the_images_in_cells(images: int, defined: bool) -> None:
    cells = torch.tensor([[40, 0], [0, 0]]) * (images > 0)
    found = counted_metrics(RoundedCounts(cells, images, 4))
    assert (found["accuracy"] is not None) == defined
    assert found["n"] == images


@pytest.mark.parametrize("value", [0, 2, -5, 2.5, "5", True, 10**7])
def test_a_smallest_cell_that_cannot_be_used(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^min-cell=.*must be 1 \(exact counts\) or a whole"):
        check("min-cell", value, MinCell)
    assert check("min-cell", 3, MinCell) == 3
