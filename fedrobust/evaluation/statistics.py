"""Statistics of a grid of runs: intervals over seeds and test images, paired differences, groups
(docs/compare.md).

Axes: R rules, A attacks, S seeds, B bootstrap replicates. NaN: a run that is missing, or a
replicate in which nothing is defined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

LEVEL = 0.05
QUANTILE = 1.959963984540054  # of the standard normal distribution, at 1 - LEVEL / 2

Interval = tuple[float, float]
NO_BOUNDS: Interval = (-math.inf, math.inf)
SHARE: Interval = (0.0, 100.0)  # percent that an accuracy can be
DROPS: Interval = (-math.inf, 100.0)  # percent that a drop can be: not more than all


def number_or_nan(value: float | None) -> float:
    """The value; NaN where it is undefined (None), so that a tensor can hold it."""
    return math.nan if value is None else value


def percentiles(values_B: Tensor) -> Interval | None:
    """The 95 % percentile interval of bootstrap replicates, of which those that are NaN are left
    out; None without any."""
    values_B = values_B[~values_B.isnan()]
    if len(values_B) == 0:
        return None
    low, high = torch.quantile(values_B, values_B.new_tensor([LEVEL / 2, 1 - LEVEL / 2])).tolist()
    return low, high


def basic_interval(value: float, draws_B: Tensor, within: Interval) -> Interval | None:
    """The basic 95 % bootstrap interval, [2 v - q(97.5 %), 2 v - q(2.5 %)]: draws that lie on one
    side of the value show its bias, and the interval goes to the other side.

    Args:
        value: v, as measured.
        draws_B: its bootstrap replicates, of which those that are NaN are left out.
        within: what the value can be; ends beyond it are moved onto it.

    Returns:
        (low, high); None without any replicate.

    Reference:
        Davison and Hinkley, Bootstrap methods and their application, 1997, section 5.2.
    """
    found = percentiles(draws_B)
    if found is None:
        return None
    low, high = (min(max(2 * value - end, within[0]), within[1]) for end in found[::-1])
    return low, high


def wilson_interval(hits: int, total: int) -> Interval | None:
    """The 95 % interval of a share by Wilson's score.

    Args:
        hits: how many counted, 0 to `total`; they count as independent.
        total: of how many.

    Returns:
        (low, high) in percent; None where `total` is 0.

    Reference:
        Wilson, J Am Stat Assoc 22:209, 1927.
    """
    if total == 0:
        return None
    share, spread = hits / total, QUANTILE**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    return 100 * max(middle - half, 0.0), 100 * min(middle + half, 1.0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval, None where undefined; `p`: of the hypothesis that it is 0."""

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True, slots=True)
class Replicates:
    """values: (..., S) as measured; draws: (..., S, B) the same under resampled test images, all by
    the same images in a replicate."""

    values: Tensor
    draws: Tensor

    def __sub__(self, other: Replicates) -> Replicates:
        """Paired by seed and image: where one run is missing, the other one is left out too."""
        return Replicates(self.values - other.values, self.draws - other.draws)

    def __getitem__(self, index: int) -> Replicates:
        return Replicates(self.values[index], self.draws[index])


def sample_seeds(number: int, draws: int, generator: Generator) -> Tensor:
    """(S, B) how often each of the S seeds is in a replicate: S picks with replacement."""
    picks_BS = torch.randint(number, (draws, number), generator=generator)
    return torch.nn.functional.one_hot(picks_BS, number).sum(dim=1).T.to(torch.float64)


def mean_over_seeds(measured: Replicates, counts_SB: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over seeds (...) and its replicates (..., B), test images and seeds both resampled.

    S picks out of S seeds vary too little: their mean has (S - 1) / S of the variance that it
    should have. So the part of a replicate that comes from the picks is stretched by sqrt(S / (S -
    1)) (Rao and Wu, JASA 83:231, 1988). One seed: images only.
    """
    there = measured.values.isfinite()
    number = there.sum(dim=-1)
    draws = measured.draws.where(there[..., None], torch.nan)
    plain = draws.nanmean(dim=-2)
    weights = counts_SB * draws.isfinite()
    picked = (weights * draws.nan_to_num()).sum(dim=-2) / weights.sum(dim=-2)
    stretch = (number / (number - 1).clamp(min=1)).sqrt()[..., None]
    return measured.values.nanmean(dim=-1), plain + stretch * (picked - plain)


def estimate(value: Tensor, draws_B: Tensor, within: Interval = NO_BOUNDS) -> Estimate:
    """Percentile interval, and the two-sided bootstrap p of the value being 0: twice the smaller
    share of replicates on either side, zeros on both, counted with one more (Davison and Hinkley
    1997, ch. 4), so never 0.

    Args:
        value: as measured.
        draws_B: its replicates.
        within: what the value can be; the interval's ends beyond it, to which the stretch of
            `mean_over_seeds` can lead, are moved onto it.
    """
    if not bool(value.isfinite()):
        return Estimate(None)
    draws = draws_B[draws_B.isfinite()]
    interval = percentiles(draws)
    if interval is None:
        return Estimate(float(value))
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    low, high = (min(max(end, within[0]), within[1]) for end in interval)
    return Estimate(float(value), low, high, min(1.0, 2 * (1 + tail) / (1 + len(draws))))


@dataclass(frozen=True, slots=True)
class DropTable:
    """Every rule under every attack. measured: of shape (R, A, S); counts_SB: `sample_seeds`, the
    same for all."""

    measured: Replicates
    counts_SB: Tensor

    def one(self, rule: int, attack: int) -> Estimate:
        """The mean over seeds."""
        return estimate(*mean_over_seeds(self.measured[rule][attack], self.counts_SB), DROPS)

    def mean(self, rule: int) -> Estimate:
        """The mean over attacks, each of which counts alike; undefined where an attack has no
        run."""
        values_A, draws_AB = mean_over_seeds(self.measured[rule], self.counts_SB)
        return estimate(values_A.mean(dim=-1), draws_AB.mean(dim=-2), DROPS)

    def worst(self, rule: int) -> Estimate:
        """The largest of the attacks' means over seeds; undefined where an attack has no run."""
        values_A, draws_AB = mean_over_seeds(self.measured[rule], self.counts_SB)
        return estimate(values_A.amax(dim=-1), draws_AB.amax(dim=-2), DROPS)

    def difference(self, one: int, other: int) -> Estimate:
        """Mean over attacks of rule `one` minus that of rule `other`, paired by attack, seed and
        image."""
        values_A, draws_AB = mean_over_seeds(
            self.measured[one] - self.measured[other], self.counts_SB
        )
        return estimate(values_A.mean(dim=-1), draws_AB.mean(dim=-2))


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values that keep the chance of any false finding among them below the level (Holm,
    Scand J Stat 6:65, 1979)."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = largest
    return adjusted


def letter_groups(number: int, different: Sequence[tuple[int, int]]) -> list[str]:
    """Letters for members 0 ... number - 1 in the order of their rank: two share one if and only if
    they are not `different`.

    Every largest set without a different pair is a letter (insert and absorb: Piepho, J Comput
    Graph Stat 13:456, 2004).
    """
    sets = [frozenset(range(number))]
    for one, other in different:
        split = [
            part
            for old in sets
            for part in ((old - {one}, old - {other}) if {one, other} <= old else (old,))
        ]
        sets = [
            part
            for place, part in enumerate(split)
            if not any(part < wider for wider in split) and part not in split[:place]
        ]
    ordered = sorted(sets, key=sorted)
    return [
        "".join(_letter(place) for place, part in enumerate(ordered) if member in part)
        for member in range(number)
    ]


def _letter(place: int) -> str:
    """A ... z, then a1, b1, ..."""
    return chr(ord("a") + place % 26) + (str(place // 26) if place >= 26 else "")
