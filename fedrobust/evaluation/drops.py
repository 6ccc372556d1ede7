"""Performance drop between a normal and an attacked condition: the combined drop and its intervals
(docs/drops.md).

Per metric M: Drop_M = 100 (M_normal - M_attack) / M_normal, a percentage of the normal value;
combined: the mean of the usable Drop_M. A gain is a negative drop and keeps its sign. A metric
whose normal value is 0, or that is undefined in one of the conditions, has no drop: it is left out
of the mean and named in `skipped`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from fedrobust.evaluation.metrics import Counts, classification_metrics, hit_table, rates
from fedrobust.evaluation.statistics import Interval, percentiles

METRICS = ("accuracy", "f1", "precision")
_CELLS = 1 << 22  # resampling counts held at once: 16 MB for any number of draws


@dataclass(frozen=True, slots=True)
class Drop:
    """per_metric: {metric: {"normal", "attack", "drop"}}, all in percent, None where undefined;
    `combined`: the mean of the usable drops, None without any; `ci95`: the 95 % interval of
    `combined`; `skipped`: metrics without a drop."""

    per_metric: Mapping[str, Mapping[str, float | None]]
    combined: float | None
    ci95: Interval | None = None
    skipped: tuple[str, ...] = ()


def relative_drop(normal: float | None, attack: float | None) -> float | None:
    """100 (normal - attack) / normal; None where a value is missing or normal is 0. Raises
    ValueError below 0 or on NaN."""
    if normal is None or attack is None:
        return None
    if not (0 <= normal < math.inf and 0 <= attack < math.inf):
        raise ValueError(
            f"a drop from {normal} to {attack}: metrics must be finite and not negative"
        )
    # Divided first: the quotient cannot be rounded above 1, nor the drop above 100.
    return 100 * ((normal - attack) / normal) if normal > 0 else None


def combined_drop(
    normal: Mapping[str, float | None],
    attack: Mapping[str, float | None],
    metrics: Sequence[str] = METRICS,
) -> Drop:
    """The drop of every named metric and their mean, without an interval. Raises KeyError when a
    metric is missing."""
    drops = {name: relative_drop(normal[name], attack[name]) for name in metrics}
    usable = [drop for drop in drops.values() if drop is not None]
    return Drop(
        per_metric={
            name: {"normal": normal[name], "attack": attack[name], "drop": drop}
            for name, drop in drops.items()
        },
        combined=sum(usable) / len(usable) if usable else None,
        skipped=tuple(name for name, drop in drops.items() if drop is None),
    )


@dataclass(frozen=True, slots=True)
class PairedPredictions:
    """The same images under two conditions.

    Attributes:
        labels_N: true classes, whole numbers in [0, num_classes).
        normal_N: predicted classes in the normal condition.
        attack_N: predicted classes in the attacked condition.
        num_classes: number of classes.
        groups_N: patient or lesion of each image; None: every image stands for itself.
    """

    labels_N: Tensor
    normal_N: Tensor
    attack_N: Tensor
    num_classes: int
    groups_N: Tensor | None = None

    def conditions(self) -> list[tuple[Tensor, Tensor]]:
        """(labels, predicted classes) of the normal and of the attacked condition."""
        return [(self.labels_N, self.normal_N), (self.labels_N, self.attack_N)]


def measure_drop(
    labels_N: Tensor,
    normal_NK: Tensor,
    attack_NK: Tensor,
    groups_N: Tensor | None = None,
    *,
    generator: Generator,
    draws: int = 2000,
) -> Drop:
    """The combined drop of `METRICS` on one set of images under two conditions, with its bootstrap
    interval.

    Args:
        labels_N: true classes, whole numbers in [0, K).
        normal_NK: class probabilities in the normal condition.
        attack_NK: class probabilities in the attacked condition.
        groups_N: patient or lesion of each image; None: every image stands for itself.
        generator: source of the bootstrap draws.
        draws: number of bootstrap draws, at least 0; 0: no interval.

    Returns:
        The drop in percent.

    Raises:
        ValueError: for a negative number of draws, or probabilities that are none.
    """
    drop = combined_drop(
        classification_metrics(normal_NK, labels_N), classification_metrics(attack_NK, labels_N)
    )
    if draws == 0:
        return drop
    paired = PairedPredictions(
        labels_N, normal_NK.argmax(dim=1), attack_NK.argmax(dim=1), normal_NK.shape[1], groups_N
    )
    return replace(drop, ci95=bootstrap_drop(paired, generator=generator, draws=draws))


def bootstrap_drop(
    paired: PairedPredictions,
    *,
    generator: Generator,
    draws: int = 2000,
    metrics: Sequence[str] = METRICS,
) -> Interval | None:
    """The 95 % percentile interval of the combined drop.

    Paired: each draw takes the same images in both conditions. Images are drawn with replacement
    within their class or, with groups, whole groups within the groups' commonest class. A draw
    skips metrics by the rules of `combined_drop`. The interval covers the choice of test images
    only, not training.

    Args:
        paired: what was predicted in the two conditions.
        generator: source of the draws.
        draws: number of draws, at least 1.
        metrics: names of the metrics in the combined drop.

    Returns:
        (low, high) in percent; None when no draw has a usable metric.

    Raises:
        ValueError: for fewer than 1 draw.
    """
    normal, attack = resampled_metrics(
        paired.conditions(), paired.num_classes, paired.groups_N, draws, generator
    )
    return percentiles(combined_draws(normal, attack, metrics))


def bootstrap_difference(
    first: PairedPredictions,
    second: PairedPredictions,
    *,
    generator: Generator,
    draws: int = 2000,
    metrics: Sequence[str] = METRICS,
) -> Interval | None:
    """The 95 % interval of the combined drop of one run minus that of another.

    Args:
        first: what the one run predicted.
        second: what the other predicted, on the same images.
        generator: source of the draws.
        draws: number of draws, at least 1.
        metrics: names of the metrics in the combined drop.

    Returns:
        (low, high) in percentage points, above 0 throughout where `first` loses more; None when no
        draw has a usable metric.

    Raises:
        ValueError: for fewer than 1 draw.
    """
    conditions = [*first.conditions(), *second.conditions()]
    a, b, c, d = resampled_metrics(conditions, first.num_classes, first.groups_N, draws, generator)
    return percentiles(combined_draws(a, b, metrics) - combined_draws(c, d, metrics))


def combined_draws(
    normal: Mapping[str, Tensor], attack: Mapping[str, Tensor], metrics: Sequence[str] = METRICS
) -> Tensor:
    """`combined_drop` for many draws at once: (draws,), NaN where no metric is usable."""
    drops = [
        (100 * ((normal[name] - attack[name]) / normal[name])).where(normal[name] > 0, math.nan)
        for name in metrics
    ]
    return torch.stack(drops).nanmean(dim=0)


def resampled_metrics(
    conditions: Sequence[tuple[Tensor, Tensor]],
    num_classes: int,
    groups_N: Tensor | None,
    draws: int,
    generator: Generator,
) -> list[dict[str, Tensor]]:
    """For each condition (labels_N, predicted_N): `metrics.rates` of every draw, (draws,) each; all
    conditions share the draws, and calls with the same images and equal generators too."""
    counts = resampled_counts(conditions, num_classes, groups_N, draws, generator)
    return [rates(one) for one in counts]


def resampled_counts(
    conditions: Sequence[tuple[Tensor, Tensor]],
    num_classes: int,
    groups_N: Tensor | None,
    draws: int,
    generator: Generator,
    *,
    within_class: bool = True,
) -> list[Counts]:
    """The counts (draws, K) behind `resampled_metrics`, a `Counts` for each condition.

    Args:
        conditions: (labels_N, predicted_N) of each, on the same images.
        num_classes: number of classes, K.
        groups_N: patient or lesion of each image; None: every image stands for itself.
        draws: number of draws, at least 1.
        generator: source of the draws.
        within_class: whether images are drawn within their class, so that each class keeps its
            number; else from all of them.

    Raises:
        ValueError: for fewer than 1 draw.
    """
    if draws < 1:
        raise ValueError(f"draws={draws}: a bootstrap needs at least 1 draw")
    tables = torch.cat(
        [hit_table(labels_N, predicted_N, num_classes) for labels_N, predicted_N in conditions],
        dim=1,
    )
    units_N, strata_U = _units(conditions[0][0], groups_N, num_classes)
    strata_U = strata_U if within_class else torch.zeros_like(strata_U)
    per_unit = tables.new_zeros(len(strata_U), tables.shape[1]).index_add_(0, units_N, tables)
    # All are whole numbers, so float32 sums are exact up to 2^24 images.
    sums = torch.cat([counts @ per_unit for counts in _draws(strata_U, draws, generator)]).to(
        torch.float64
    )
    return [Counts(*part.chunk(3, dim=1)) for part in sums.chunk(len(conditions), dim=1)]


def _units(labels_N: Tensor, groups_N: Tensor | None, num_classes: int) -> tuple[Tensor, Tensor]:
    """Units of the draws: (N,) each image's unit and (U,) each unit's stratum, its commonest
    class (the lowest of equals)."""
    labels_N = labels_N.long()
    if groups_N is None:
        return torch.arange(len(labels_N)), labels_N
    units_N = torch.unique(groups_N, return_inverse=True)[1]
    size = int(units_N.max()) + 1 if len(units_N) else 0
    votes = torch.bincount(units_N * num_classes + labels_N, minlength=size * num_classes).view(
        size, num_classes
    )
    return units_N, votes.argmax(dim=1)


def _draws(strata_U: Tensor, draws: int, generator: Generator) -> Iterator[Tensor]:
    """Blocks (draws in the block, U) of how often each unit was drawn; every stratum keeps its
    number of units."""
    strata = [(strata_U == stratum).nonzero().reshape(-1) for stratum in torch.unique(strata_U)]
    width = max(1, _CELLS // max(1, len(strata_U)))
    for start in range(0, draws, width):
        counts = torch.zeros(min(width, draws - start), len(strata_U))
        for members in strata:
            picks = members[
                torch.randint(len(members), (len(counts), len(members)), generator=generator)
            ]
            counts.scatter_add_(1, picks, torch.ones(()).expand(picks.shape))
        yield counts
