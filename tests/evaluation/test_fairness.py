"""Worst case and spread over sites and classes: by hand, against loops, and what small sites and
empty classes do."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrobust.evaluation.fairness import (
    MIN_IMAGES,
    Fairness,
    SitePredictions,
    measure_fairness,
    spread_of,
)
from fedrobust.utils.seeding import generator

TWO = {"poisoning": ("twin_clean", "clean")}


def hits(number: int, total: int = 10) -> list[int]:
    """Classes predicted for images of class 0: so many right, the others class 1."""
    return [0] * number + [1] * (total - number)


def measured(
    twin: list[int], run: list[int], sites: Mapping[int, Tensor], labels: list[int] | None = None
) -> Fairness:
    return measure_fairness(
        SitePredictions(
            torch.tensor(labels or [0] * len(run)),
            {"twin_clean": torch.tensor(twin), "clean": torch.tensor(run)},
            sites,
            num_classes=3,
        ),
        TWO,
        generator=generator(0, "test"),
        draws=200,
    )


THREE = {0: torch.arange(10), 4: torch.arange(10, 20), 7: torch.arange(20, 30)}


def test_golden_three_sites() -> None:
    # accuracies: twin 80, 90, 100; run 50, 90, 100. Mean 80, deviations -30, 10, 20:
    # std = sqrt((900 + 100 + 400) / 3) = 21.602; the twin's sqrt((100 + 0 + 100) / 3) = 8.165
    found = measured([*hits(8), *hits(9), *hits(10)], [*hits(5), *hits(9), *hits(10)], THREE)
    run = found.evaluations["clean"]["site_accuracy"]
    twin = found.evaluations["twin_clean"]["site_accuracy"]
    assert (run.worst.value, run.worst_member, run.range.value) == (50.0, 0, 50.0)
    assert run.std.value == pytest.approx(21.602, abs=1e-3)
    assert (twin.worst.value, twin.range.value) == (80.0, 20.0)
    assert twin.std.value == pytest.approx(8.165, abs=1e-3)
    change = found.drops["poisoning"]["site_accuracy"]
    assert change.worst.value == pytest.approx(100 * 30 / 80)
    assert change.std.value == pytest.approx(21.602 - 8.165, abs=2e-3)
    assert change.range.value == pytest.approx(30.0)
    for one in (run.worst, run.std, run.range, change.worst, change.std, change.range):
        assert one.ci95 is not None
        assert one.ci95[0] < one.ci95[1]


def test_golden_recall_of_classes() -> None:
    # class 0: 12 images, 9 right; class 1: 10 images, 4 right; class 2: none
    labels, run = [0] * 12 + [1] * 10, [0] * 9 + [1] * 3 + [1] * 4 + [0] * 6
    found = measured(labels, run, {}, labels)
    recall = found.evaluations["clean"]["class_recall"]
    assert (recall.worst.value, recall.worst_member) == (40.0, 1)
    assert recall.range.value == pytest.approx(35.0)
    assert recall.std.value == pytest.approx(17.5)
    assert found.drops["poisoning"]["class_recall"].worst.value == pytest.approx(60.0)
    assert found.classes_left_out == (2,)
    assert "site_accuracy" not in found.evaluations["clean"]


def test_small_sites_and_classes_are_left_out_and_named() -> None:
    sites = {0: torch.arange(10), 1: torch.arange(10, 19), 2: torch.arange(0)}
    found = measured([0] * 19, [0] * 10 + [1] * 9, sites)
    assert MIN_IMAGES == 10
    assert found.sites_left_out == (1, 2)
    one = found.evaluations["clean"]["site_accuracy"]
    assert (one.worst.value, one.worst_member) == (100.0, 0)  # site 1, all wrong, does not count
    assert one.std.value is one.range.value is one.std.ci95 is None  # one member has no spread


def test_equal_predictions_change_nothing_in_any_draw() -> None:
    run = [*hits(5), *hits(9), *hits(10)]
    change = measured(run, run, THREE).drops["poisoning"]["site_accuracy"]
    for one in (change.worst, change.std, change.range):
        assert (one.value, one.ci95) == (0.0, (0.0, 0.0))


def test_a_worst_value_of_zero_has_no_relative_drop() -> None:
    found = measured([*hits(0), *hits(9), *hits(10)], [*hits(5), *hits(9), *hits(10)], THREE)
    change = found.drops["poisoning"]["site_accuracy"]
    assert change.worst.value is change.worst.ci95 is None
    assert change.range.value == pytest.approx(-50.0)


def test_whole_patients_are_drawn() -> None:
    labels, run = torch.zeros(40, dtype=torch.int64), torch.tensor([0, 1] * 20)
    images = SitePredictions(labels, {"clean": run}, {0: torch.arange(40)}, 3)
    patients = SitePredictions(
        labels, {"clean": run}, {0: torch.arange(40)}, 3, torch.arange(40) // 2
    )
    wide, none = (
        measure_fairness(one, {}, generator=generator(0, "x"), draws=300)
        .evaluations["clean"]["site_accuracy"]
        .worst.ci95
        for one in (images, patients)
    )
    assert wide is not None
    assert wide[1] - wide[0] > 20
    assert wide[0] >= 0
    assert none == (50.0, 50.0)  # each patient has one image right and one wrong


def test_the_intervals_cover_the_true_worst_case_and_spread() -> None:
    # five sites of 60 images, true accuracies 60, 70, 80, 80, 90 %: std 10.2, range 30
    truth = torch.tensor([0.6, 0.7, 0.8, 0.8, 0.9])
    sites = {k: torch.arange(60 * k, 60 * k + 60) for k in range(5)}
    held = torch.zeros(3)
    for trial in range(30):
        coin = torch.rand(300, generator=generator(trial, "coin")) < truth.repeat_interleave(60)
        run = torch.where(coin, 0, 1).tolist()
        one = measured([0] * 300, run, sites).evaluations["clean"]["site_accuracy"]
        for place, (found, true) in enumerate(
            ((one.worst, 60.0), (one.std, 10.2), (one.range, 30.0))
        ):
            assert found.ci95 is not None
            held[place] += found.ci95[0] <= true <= found.ci95[1]
    assert held.min() >= 24


VALUES = st.dictionaries(st.integers(0, 9), st.none() | st.floats(0, 100), min_size=1, max_size=8)


@given(VALUES)
@settings(max_examples=30)
def test_reported_values_have_the_spread_that_statistics_says(
    values: dict[int, float | None],
) -> None:
    known = [value for value in values.values() if value is not None]
    found = spread_of(values)
    if not known:
        assert found is None
        return
    assert found is not None
    assert found.worst.value == min(known)
    assert found.worst_member is not None
    assert values[found.worst_member] == min(known)
    if len(known) > 1:
        assert found.std.value == pytest.approx(statistics.pstdev(known), abs=1e-9)
        assert found.range.value == pytest.approx(max(known) - min(known))
    else:
        assert found.std.value is found.range.value is None


@given(st.integers(0, 2**31), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_the_order_of_sites_and_images_changes_no_measured_value(seed: int, sites: int) -> None:
    g = generator(seed, "images")
    labels, run = torch.randint(3, (60,), generator=g), torch.randint(3, (60,), generator=g)
    home = torch.randint(sites, (60,), generator=g)
    order = torch.randperm(60, generator=g)

    def values(rows: Tensor, clients: list[int]) -> object:
        found = measure_fairness(
            SitePredictions(
                labels[rows],
                {"clean": run[rows]},
                {one: (home[rows] == one).nonzero().reshape(-1) for one in clients},
                3,
            ),
            {},
            generator=generator(0, "x"),
            draws=0,
        )
        one = found.evaluations["clean"]
        return {
            name: tuple(round(x or 0, 6) for x in (s.worst.value, s.std.value, s.range.value))
            for name, s in one.items()
        }

    there, back = list(range(sites)), list(range(sites))[::-1]
    assert values(torch.arange(60), there) == values(order, back)
