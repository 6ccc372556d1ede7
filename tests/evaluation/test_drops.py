"""The combined drop against the printed tables, and the bootstrap against what an interval must
do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.evaluation.drops import (
    METRICS,
    Drop,
    PairedPredictions,
    bootstrap_difference,
    bootstrap_drop,
    combined_drop,
    measure_drop,
    relative_drop,
)
from fedrobust.evaluation.metrics import classification_metrics
from fedrobust.utils.seeding import generator

PERCENT = st.floats(0.1, 100)

# The values (accuracy, F1, precision; clean -> noisy) of the poster's four models: the only numbers
# of three decimals that agree with its relative drops, its printed column, its drops in points and
# ETF's precision (docs/drops.md).
POSTER = {
    "baseline": ((0.384, 0.240), (0.314, 0.171), (0.288, 0.260)),
    "ETF": ((0.443, 0.314), (0.365, 0.280), (0.357, 0.390)),
    "ETF+Rect": ((0.463, 0.332), (0.399, 0.293), (0.420, 0.283)),
    "ETF+Rect+DML": ((0.467, 0.315), (0.449, 0.376), (0.469, 0.287)),
}


def poster(model: str) -> Drop:
    normal, attack = (
        {name: 100 * pair[side] for name, pair in zip(METRICS, POSTER[model], strict=True)}
        for side in (0, 1)
    )
    return combined_drop(normal, attack)


@pytest.mark.parametrize(
    ("model", "accuracy", "f1", "precision", "combined"),
    # e.g. baseline: (.384-.240)/.384 = 37.500 %, (.314-.171)/.314 = 45.541 %, (.288-.260)/.288 =
    # 9.722 %, mean 30.921 %
    [
        ("baseline", 37.500, 45.541, 9.722, 30.921),
        ("ETF", 29.120, 23.288, -9.244, 14.388),
        ("ETF+Rect", 28.294, 26.566, 32.619, 29.160),
        ("ETF+Rect+DML", 32.548, 16.258, 38.806, 29.204),
    ],
)
def test_golden_poster(
    model: str, accuracy: float, f1: float, precision: float, combined: float
) -> None:
    drop = poster(model)
    got = [drop.per_metric[name]["drop"] for name in METRICS]
    assert got == pytest.approx([accuracy, f1, precision], abs=5e-4)
    assert drop.combined == pytest.approx(combined, abs=5e-4)


PRINTED = {"baseline": 12.57, "ETF": 9.72, "ETF+Rect": 9.51, "ETF+Rect+DML": 10.93}


def mixed_units(model: str) -> float:
    """Accuracy as a relative drop in per cent, F1 and precision as differences of fractions."""
    accuracy, f1, precision = POSTER[model]
    return ((relative_drop(*accuracy) or 0) + (f1[0] - f1[1]) + (precision[0] - precision[1])) / 3


@pytest.mark.parametrize("model", POSTER)
def test_the_printed_column_mixes_units(model: str) -> None:
    # baseline: (37.5 + .143 + .028) / 3 = 12.557, printed as 12.57; the other three are rounded
    # correctly
    assert mixed_units(model) == pytest.approx(
        PRINTED[model], abs=0.014 if model == "baseline" else 0.005
    )
    assert poster(model).combined != pytest.approx(PRINTED[model], abs=1)


def test_every_number_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "drops.md").read_text(encoding="utf-8")
    table = (
        text.split("<!-- poster:start -->")[1]
        .split("<!-- poster:end -->")[0]
        .strip()
        .splitlines()[2:]
    )
    rows = {
        cells[0]: cells[1:]
        for cells in ([cell.strip(" *") for cell in line.strip("|").split("|")] for line in table)
    }
    assert rows.keys() == POSTER.keys()
    for model, cells in rows.items():
        pairs = [tuple(float(part) for part in cell.split("→")) for cell in cells[:3]]
        assert tuple(pairs) == POSTER[model]
        drop = poster(model)
        relative = [drop.per_metric[name]["drop"] for name in METRICS]
        assert cells[3:7] == [f"{value:.3f}" for value in (*relative, drop.combined)]
        assert cells[7] == f"{mixed_units(model):.3f}"
    assert [cells[8] for cells in rows.values()] == [f"{value:.2f}" for value in PRINTED.values()]


def test_a_normal_value_of_zero_is_left_out_and_named() -> None:
    drop = combined_drop(
        {"accuracy": 50.0, "f1": 0.0, "precision": 40.0},
        {"accuracy": 25.0, "f1": 10.0, "precision": 50.0},
    )
    assert drop.skipped == ("f1",)
    assert drop.combined == pytest.approx((50 - 25) / 2)  # (50-25)/50 = 50 %, (40-50)/40 = -25 %
    assert drop.per_metric["f1"] == {"normal": 0.0, "attack": 10.0, "drop": None}


def test_undefined_metrics_are_left_out() -> None:
    drop = combined_drop(
        {"accuracy": 50.0, "auroc": None}, {"accuracy": 50.0, "auroc": 60.0}, ("accuracy", "auroc")
    )
    assert (drop.combined, drop.skipped) == (0.0, ("auroc",))
    nothing = combined_drop(dict.fromkeys(METRICS), dict.fromkeys(METRICS))
    assert (nothing.combined, nothing.skipped) == (None, METRICS)


def test_refusals() -> None:
    with pytest.raises(KeyError):
        combined_drop({"accuracy": 1.0}, {"accuracy": 1.0})
    for pair in ((float("nan"), 1.0), (1.0, float("nan")), (-1.0, 1.0), (float("inf"), 1.0)):
        with pytest.raises(ValueError, match="finite"):
            relative_drop(*pair)


@settings(max_examples=40)
@given(normal=st.floats(1e-6, 100))
def test_a_total_loss_is_exactly_100(normal: float) -> None:
    assert relative_drop(normal, 0.0) == 100.0  # the report's schema allows no 100.00000000000001


@settings(max_examples=40)
@given(
    values=st.lists(st.tuples(PERCENT, PERCENT), min_size=3, max_size=3), factor=st.floats(0.01, 1)
)
def test_laws_of_the_formula(values: list[tuple[float, float]], factor: float) -> None:
    normal, attack = (
        {name: pair[side] for name, pair in zip(METRICS, values, strict=True)} for side in (0, 1)
    )
    combined = combined_drop(normal, attack).combined
    assert combined is not None
    assert combined <= 100
    assert combined_drop(normal, normal).combined == 0
    smaller = combined_drop(
        *({k: factor * v for k, v in side.items()} for side in (normal, attack))
    ).combined
    assert smaller == pytest.approx(combined, abs=1e-6)  # the unit does not matter
    scaled = combined_drop(normal, {k: factor * v for k, v in normal.items()}).combined
    assert scaled == pytest.approx(100 * (1 - factor), abs=1e-6)


def answers(
    n: int, g: torch.Generator, right: float, num_classes: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and predictions that hit with probability `right`, otherwise name another class."""
    labels = torch.randint(num_classes, (n,), generator=g)
    return labels, wrong(labels, g, right, num_classes)


def wrong(
    labels: torch.Tensor, g: torch.Generator, right: float, num_classes: int = 4
) -> torch.Tensor:
    other = (labels + torch.randint(1, num_classes, labels.shape, generator=g)) % num_classes
    return torch.where(torch.rand(labels.shape, generator=g) < right, labels, other)


def paired(labels: torch.Tensor, normal: torch.Tensor, attack: torch.Tensor) -> PairedPredictions:
    return PairedPredictions(labels, normal, attack, 4)


def test_the_interval_covers_the_true_drop() -> None:
    # Hits .8 normally, .6 under attack, classes alike: every metric tends to .8 and .6, so the true
    # drop is 25 %.
    covered = 0
    for trial in range(100):
        g = generator(trial, "coverage")
        labels, normal = answers(400, g, 0.8)
        interval = bootstrap_drop(
            paired(labels, normal, wrong(labels, g, 0.6)), generator=g, draws=200
        )
        assert interval is not None
        covered += interval[0] <= 25 <= interval[1]
    assert 88 <= covered <= 100  # 95 % nominal; below 88 of 100 has a probability under .003


def test_the_draws_are_paired() -> None:
    # The attack changes nothing: paired draws have drop 0 every time; separate draws would spread.
    labels, normal = answers(100, generator(0, "paired"), 0.7)
    assert bootstrap_drop(paired(labels, normal, normal), generator=generator(0), draws=100) == (
        0.0,
        0.0,
    )


def test_degenerate_when_nothing_can_vary() -> None:
    # Each class is all right or all wrong alike in every draw: accuracy 100 -> 50, f1 (0 + 2/3)/2,
    # precision (0 + 1/2)/2.
    labels = torch.tensor([0] * 5 + [1] * 5)
    interval = bootstrap_drop(
        PairedPredictions(labels, labels, torch.ones_like(labels), 2),
        generator=generator(0),
        draws=50,
    )
    expected = (50 + 100 * (1 - 1 / 3) + 75) / 3
    assert interval == pytest.approx((expected, expected))


def test_groups_are_drawn_whole() -> None:
    # Twenty images of each patient tell no more than one: the interval over patients is wider.
    g = generator(3, "groups")
    labels, normal = answers(60, g, 0.8)
    attack = wrong(labels, g, 0.5)
    many = [one.repeat_interleave(20) for one in (labels, normal, attack)]
    patients = torch.arange(60).repeat_interleave(20)
    by_patient = bootstrap_drop(
        PairedPredictions(*many, 4, patients), generator=generator(1), draws=400
    )
    by_image = bootstrap_drop(PairedPredictions(*many, 4), generator=generator(1), draws=400)
    single = bootstrap_drop(paired(labels, normal, attack), generator=generator(1), draws=400)
    assert by_patient is not None
    assert by_image is not None
    assert by_patient == pytest.approx(single)  # a patient of 20 equal images counts like one image
    assert by_patient[1] - by_patient[0] > 3 * (by_image[1] - by_image[0])


def test_groups_of_several_classes_and_any_ids() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1, 0])
    interval = bootstrap_drop(
        PairedPredictions(labels, labels, 1 - labels, 2, torch.tensor([70, 70, 70, -5, -5, 9])),
        generator=generator(0),
        draws=50,
    )
    assert interval == (100.0, 100.0)


def test_metrics_that_vanish_in_a_draw_are_left_out_of_it() -> None:
    # Never right normally: no metric is usable in any draw.
    labels = torch.tensor([0, 1, 0, 1])
    assert (
        bootstrap_drop(
            PairedPredictions(labels, 1 - labels, labels, 2), generator=generator(0), draws=20
        )
        is None
    )
    empty = labels[:0]
    assert (
        bootstrap_drop(PairedPredictions(empty, empty, empty, 2), generator=generator(0), draws=20)
        is None
    )


def test_difference_of_two_runs() -> None:
    g = generator(5, "difference")
    labels, normal = answers(500, g, 0.9)
    weak, strong = wrong(labels, g, 0.3), wrong(labels, g, 0.8)
    one = bootstrap_difference(
        paired(labels, normal, weak),
        paired(labels, normal, strong),
        generator=generator(1),
        draws=300,
    )
    other = bootstrap_difference(
        paired(labels, normal, strong),
        paired(labels, normal, weak),
        generator=generator(1),
        draws=300,
    )
    assert one is not None
    assert other is not None
    assert one[0] > 30
    # exchange of the runs changes the sign
    assert one == pytest.approx((-other[1], -other[0]), abs=1e-9)
    assert bootstrap_difference(
        paired(labels, normal, weak), paired(labels, normal, weak), generator=generator(1), draws=50
    ) == (0.0, 0.0)


@settings(max_examples=25)
@given(n=st.integers(1, 60), seed=st.integers(0, 2**31), grouped=st.booleans())
def test_one_draw_of_everything_is_the_measured_value(n: int, seed: int, grouped: bool) -> None:
    """With one unit per stratum every draw is the whole set, so bootstrap and
    `classification_metrics` must agree."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.zeros(n, dtype=torch.int64) if grouped else torch.arange(n)
    groups = torch.zeros(n, dtype=torch.int64) if grouped else None
    size = 5 if grouped else n + 2
    normal, attack = torch.rand(n, size, generator=g), torch.rand(n, size, generator=g)
    expected = combined_drop(
        classification_metrics(normal, labels), classification_metrics(attack, labels)
    ).combined
    got = bootstrap_drop(
        PairedPredictions(labels, normal.argmax(1), attack.argmax(1), size, groups),
        generator=g,
        draws=3,
    )
    # the metrics are float32, each within 2^-24 of its value: 100 (1 - attack / normal) is off by
    # 1e-5 or, where the attack is the better one, by as much of attack / normal
    assert got == (None if expected is None else pytest.approx((expected, expected), abs=1e-4))


def test_measure_drop_puts_value_and_interval_together() -> None:
    g = generator(2, "measure")
    labels, normal = answers(300, g, 0.9)
    scores = torch.eye(4)[normal], torch.eye(4)[wrong(labels, g, 0.6)]
    drop = measure_drop(labels, *scores, generator=generator(1), draws=200)
    assert drop.combined is not None
    assert drop.ci95 is not None
    assert drop.ci95[0] < drop.combined < drop.ci95[1]
    assert drop == measure_drop(labels, *scores, generator=generator(1), draws=200)
    without = measure_drop(labels, *scores, generator=generator(1), draws=0)
    assert (without.combined, without.ci95) == (drop.combined, None)
    with pytest.raises(ValueError, match="draws=-1"):
        measure_drop(labels, *scores, generator=generator(1), draws=-1)
