"""Worst case and spread of a model's performance over sites and over classes, and what changes them
between two conditions (docs/drops.md).

Axes: N test images, C conditions, K classes, Q quantities, B bootstrap draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from fedrobust.evaluation.drops import resampled_counts
from fedrobust.evaluation.metrics import Counts, hit_table, rates
from fedrobust.evaluation.statistics import (
    DROPS,
    NO_BOUNDS,
    SHARE,
    Interval,
    basic_interval,
    number_or_nan,
)

MIN_IMAGES = 10  # test images below which a site or a class is left out
SITE_METRICS = ("accuracy", "balanced_accuracy")
SITES: Mapping[str, str] = {f"site_{metric}": metric for metric in SITE_METRICS}
RECALL = "class_recall"


@dataclass(frozen=True, slots=True)
class Bounded:
    """A value with its 95 % interval; None where undefined or not computed."""

    value: float | None
    ci95: Interval | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """One quantity over its members, the sites or the classes.

    Attributes:
        worst: the smallest value, percent.
        std: standard deviation over the members, which are all there are (divided by their
            number), percentage points; undefined for fewer than two.
        range: largest minus smallest value, percentage points; undefined likewise.
        worst_member: number of the client or class with the smallest value, the first of equals.
    """

    worst: Bounded
    std: Bounded
    range: Bounded
    worst_member: int | None = None


@dataclass(frozen=True, slots=True)
class Fairness:
    """Spreads of one model's predictions by evaluation and quantity, and what changes between two.

    Attributes:
        sites_left_out: clients with 1 to `MIN_IMAGES` - 1 test images, or without any.
        classes_left_out: classes likewise.
        evaluations: {evaluation: {quantity: spread}}.
        drops: {comparison: {quantity: change}}: of `worst` the relative drop, percent of the
            normal value; of `std` and `range` attack minus normal, percentage points, above 0
            where performance is spread wider.
    """

    sites_left_out: tuple[int, ...]
    classes_left_out: tuple[int, ...]
    evaluations: Mapping[str, Mapping[str, Spread]]
    drops: Mapping[str, Mapping[str, Spread]]
    min_images: int = MIN_IMAGES


@dataclass(frozen=True, slots=True)
class SitePredictions:
    """Predictions of the same images under several conditions, and where the images lie.

    Attributes:
        labels_N: true classes, whole numbers in [0, num_classes).
        predicted: by condition (N,) predicted classes.
        sites: by client the positions (n,) of its images among the N.
        num_classes: number of classes.
        groups_N: patient or lesion of each image; None: every image stands for itself.
    """

    labels_N: Tensor
    predicted: Mapping[str, Tensor]
    sites: Mapping[int, Tensor]
    num_classes: int
    groups_N: Tensor | None = None

    def conditions(self, rows: Tensor | slice = slice(None)) -> list[tuple[Tensor, Tensor]]:
        """(labels, predicted classes) of some images under each condition."""
        return [(self.labels_N[rows], one[rows]) for one in self.predicted.values()]

    def groups(self, rows: Tensor | slice = slice(None)) -> Tensor | None:
        """Patient or lesion of some images."""
        return None if self.groups_N is None else self.groups_N[rows]


@dataclass
class _Members:
    """Least, largest, mean and squared deviations of values (...) that come one member after the
    other; NaN is left out (Welford, Technometrics 4:419, 1962)."""

    low: Tensor
    high: Tensor
    mean: Tensor
    squares: Tensor
    number: Tensor
    numbers: list[int] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)  # the first along the last axis

    @classmethod
    def of(cls, like: Tensor) -> _Members:
        zero = torch.zeros_like(like)
        unknown = torch.full_like(like, math.nan)
        return cls(unknown, unknown, zero, zero, zero)

    def add(self, member: int, values: Tensor) -> None:
        known = ~values.isnan()
        self.low, self.high = torch.fmin(self.low, values), torch.fmax(self.high, values)
        self.number = self.number + known
        away = torch.where(known, values - self.mean, 0.0)
        self.mean = self.mean + away / self.number.clamp(min=1)
        self.squares = self.squares + torch.where(known, away * (values - self.mean), 0.0)
        self.numbers.append(member)
        self.values.append(values[..., 0])

    @property
    def statistics(self) -> dict[str, Tensor]:
        """worst, std and range (...), NaN where undefined."""
        several = self.number > 1
        std = (self.squares / self.number.clamp(min=1)).sqrt()
        return {
            "worst": self.low,
            "std": std.where(several, math.nan),
            "range": (self.high - self.low).where(several, math.nan),
        }

    def worst_member(self, place: tuple[int, ...]) -> int | None:
        values = torch.stack([one[place] for one in self.values])
        if bool(values.isnan().all()):
            return None
        return self.numbers[int(values.nan_to_num(nan=math.inf).argmin())]


def measure_fairness(
    predictions: SitePredictions,
    comparisons: Mapping[str, tuple[str, str]],
    *,
    generator: Generator,
    draws: int = 2000,
) -> Fairness:
    """Worst case and spread over sites and classes, each with its paired bootstrap interval.

    A draw takes images (or whole patients) with replacement, for the sites within each site, for
    the classes within each class, and the same ones under all conditions. A site or class with
    fewer than `MIN_IMAGES` images is left out: its value is mostly chance. A class that a draw
    does not hold is left out of that draw. The intervals are basic ones, because the smallest of
    several estimates lies below the smallest true value, and their spread above the true one.

    Args:
        predictions: of all conditions.
        comparisons: {name: (normal, attack)}, conditions whose spreads are compared.
        generator: source of the draws.
        draws: number of draws; 0: no intervals.

    Returns:
        All spreads, and the changes between the compared conditions.
    """
    images = predictions.labels_N.long().bincount(minlength=predictions.num_classes).tolist()
    sites = {one: rows for one, rows in predictions.sites.items() if len(rows) >= MIN_IMAGES}
    classes = [k for k, number in enumerate(images) if number >= MIN_IMAGES]
    found: dict[str, tuple[_Members, int]] = {}
    members = _gather(_site_rates(predictions, sites, draws, generator))
    if members is not None:
        found |= {name: (members, place) for place, name in enumerate(SITES)}
    members = _gather(_recalls(predictions, classes, draws, generator))
    if members is not None:
        found[RECALL] = members, 0
    order = list(predictions.predicted)
    return Fairness(
        sites_left_out=tuple(sorted(predictions.sites.keys() - sites.keys())),
        classes_left_out=tuple(sorted(set(range(predictions.num_classes)) - {*classes})),
        evaluations={
            name: {
                quantity: _spread(members, (place, part))
                for quantity, (members, part) in found.items()
            }
            for place, name in enumerate(order)
        },
        drops={
            name: {
                quantity: _change(members.statistics, part, order.index(one), order.index(other))
                for quantity, (members, part) in found.items()
            }
            for name, (one, other) in comparisons.items()
        },
    )


def spread_of(values: Mapping[int, float | None]) -> Spread | None:
    """The spread of values that are known alone, without their images.

    Args:
        values: by client, percent; None: undefined.

    Returns:
        The spread without intervals; None where no value is defined.
    """
    known = {one: value for one, value in values.items() if value is not None}
    members = _gather(
        (one, torch.tensor([number_or_nan(value)], dtype=torch.float64))
        for one, value in known.items()
    )
    return None if members is None else _spread(members, ())


def _gather(parts: Iterable[tuple[int, Tensor]]) -> _Members | None:
    members: _Members | None = None
    for member, values in parts:
        members = members or _Members.of(values)
        members.add(member, values)
    return members


def _site_rates(
    predictions: SitePredictions,
    sites: Mapping[int, Tensor],
    draws: int,
    generator: Generator,
) -> Iterator[tuple[int, Tensor]]:
    """(client, (C, Q, 1 + B)): `SITE_METRICS` as measured, then of every draw."""
    for client, rows in sites.items():
        counts = _with_draws(
            predictions, rows, draws=draws, generator=generator, within_class=False
        )
        found = [rates(one) for one in counts]
        yield (
            client,
            torch.stack([torch.stack([one[name] for name in SITE_METRICS]) for one in found]),
        )


def _recalls(
    predictions: SitePredictions, classes: Sequence[int], draws: int, generator: Generator
) -> Iterator[tuple[int, Tensor]]:
    """(class, (C, 1, 1 + B)): its recall as measured, then of every draw."""
    if not classes:
        return
    counts = _with_draws(predictions, slice(None), draws=draws, generator=generator)
    for k in classes:
        shares = [100 * one.hits[:, k] / one.labelled[:, k] for one in counts]  # 0 / 0 is NaN
        yield k, torch.stack(shares)[:, None]


def _with_draws(
    predictions: SitePredictions,
    rows: Tensor | slice,
    *,
    draws: int,
    generator: Generator,
    within_class: bool = True,
) -> list[Counts]:
    """The counts (1 + B, K) of some images under each condition: as they are, then of every
    draw."""
    conditions, size = predictions.conditions(rows), predictions.num_classes
    measured = [
        hit_table(labels_N, predicted_N, size).double().sum(dim=0, keepdim=True).chunk(3, dim=1)
        for labels_N, predicted_N in conditions
    ]
    if draws == 0:
        return [Counts(*one) for one in measured]
    drawn = resampled_counts(
        conditions, size, predictions.groups(rows), draws, generator, within_class=within_class
    )
    return [
        Counts(
            torch.cat([hits, more.hits]),
            torch.cat([predicted, more.predicted]),
            torch.cat([labelled, more.labelled]),
        )
        for (hits, predicted, labelled), more in zip(measured, drawn, strict=True)
    ]


def _spread(members: _Members, place: tuple[int, ...]) -> Spread:
    worst, std, wide = (_bound(one[place], SHARE) for one in members.statistics.values())
    return Spread(worst, std, wide, members.worst_member(place))


def _change(statistics: Mapping[str, Tensor], part: int, normal: int, attack: int) -> Spread:
    """From one condition to another: the worst value's relative drop, the growth of the others."""
    before, after = (
        {name: values[place, part] for name, values in statistics.items()}
        for place in (normal, attack)
    )
    # Divided first, as in `drops.relative_drop`: no drop is rounded above 100
    lost = 100 * ((before["worst"] - after["worst"]) / before["worst"])
    worst = _bound(lost.where(before["worst"] > 0, math.nan), DROPS)
    std, wide = (_bound(after[name] - before[name]) for name in ("std", "range"))
    return Spread(worst, std, wide)


def _bound(values: Tensor, within: Interval = NO_BOUNDS) -> Bounded:
    """(1 + B): as measured, then of every draw."""
    measured = float(values[0])
    if math.isnan(measured):
        return Bounded(None)
    return Bounded(measured, basic_interval(measured, values[1:], within))
