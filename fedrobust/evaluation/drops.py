"""How much performance is lost between a normal and an attacked condition: the combined drop and
its intervals (docs/drops.md).

Per metric M: Drop_M = 100 (M_normal - M_attack) / M_normal, a percentage of the normal value;
combined: the mean of the usable Drop_M. A gain is a negative drop and keeps its sign. A metric
whose normal value is 0, or that is undefined in one of the conditions, has no drop: it is left out
of the mean and named in `skipped`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from fedrobust.evaluation.metrics import Counts, classification_metrics, hit_table, rates

METRICS = ("accuracy", "f1", "precision")
UNSTABLE_BELOW = 5.0
_CELLS = 1 << 22  # resampling counts held at once: 16 MB, whatever the number of draws

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Drop:
    """per_metric: {metric: {"normal", "attack", "drop"}}, all in percent, None where undefined;
    `combined`: the mean of the usable drops, None without any; `ci95`: the 95 % interval of
    `combined`; `skipped`: metrics without a drop."""

    per_metric: Mapping[str, Mapping[str, float | None]]
    combined: float | None
    ci95: Interval | None = None
    skipped: tuple[str, ...] = ()

    @property
    def unstable(self) -> tuple[str, ...]:
        """Metrics whose normal value is below 5 %: a ratio to so small a number says little; show
        it with a warning."""
        normals = {name: row["normal"] for name, row in self.per_metric.items()}
        return tuple(
            name
            for name, normal in normals.items()
            if normal is not None and 0 < normal < UNSTABLE_BELOW
        )

    def as_dict(self) -> dict[str, Any]:
        """The entry of report.json."""
        return {
            "per_metric": {name: dict(row) for name, row in self.per_metric.items()},
            "combined": self.combined,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "skipped": list(self.skipped),
        }


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


def measure_drop(
    labels_N: Tensor,
    probabilities_normal_NK: Tensor,
    probabilities_attack_NK: Tensor,
    groups_N: Tensor | None = None,
    *,
    generator: Generator,
    draws: int = 2000,
    attack_labels_N: Tensor | None = None,
) -> Drop:
    """The combined drop of `METRICS` on one set of images under two conditions, with its bootstrap
    interval.

    attack_labels_N: the labels under attack where they differ (label contamination). draws=0: no
    interval.
    """
    attack_labels_N = labels_N if attack_labels_N is None else attack_labels_N
    drop = combined_drop(
        classification_metrics(probabilities_normal_NK, labels_N),
        classification_metrics(probabilities_attack_NK, attack_labels_N),
    )
    if draws == 0:
        return drop
    predicted = probabilities_normal_NK.argmax(dim=1), probabilities_attack_NK.argmax(dim=1)
    num_classes = probabilities_normal_NK.shape[1]
    options: dict[str, Any] = {
        "generator": generator,
        "draws": draws,
        "attack_labels_N": attack_labels_N,
    }
    interval = bootstrap_drop(labels_N, *predicted, num_classes, groups_N, **options)
    return Drop(drop.per_metric, drop.combined, interval, drop.skipped)


def bootstrap_drop(
    labels_N: Tensor,
    predicted_normal_N: Tensor,
    predicted_attack_N: Tensor,
    num_classes: int,
    groups_N: Tensor | None = None,
    *,
    generator: Generator,
    draws: int = 2000,
    metrics: Sequence[str] = METRICS,
    attack_labels_N: Tensor | None = None,
) -> Interval | None:
    """The 95 % percentile interval (low, high) of the combined drop, in percentage points.

    Paired: each draw takes the same images in both conditions. Images are drawn with replacement
    within their class or, with `groups_N` (patient or lesion ids), whole groups within the groups'
    commonest class. A draw skips metrics by the rules of `combined_drop`; None when no draw has a
    usable metric. It covers the choice of test images only, not training.
    """
    attack_labels_N = labels_N if attack_labels_N is None else attack_labels_N
    conditions = [(labels_N, predicted_normal_N), (attack_labels_N, predicted_attack_N)]
    normal, attack = resampled_metrics(conditions, num_classes, groups_N, draws, generator)
    return percentiles(combined_draws(normal, attack, metrics))


def bootstrap_difference(
    labels_N: Tensor,
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    num_classes: int,
    groups_N: Tensor | None = None,
    *,
    generator: Generator,
    draws: int = 2000,
    metrics: Sequence[str] = METRICS,
) -> Interval | None:
    """The 95 % interval of combined drop of `first` minus that of `second`, two runs judged on the
    same images.

    first, second: (predicted_normal_N, predicted_attack_N). Above 0 throughout: `first` loses more.
    """
    conditions = [(labels_N, predicted_N) for predicted_N in (*first, *second)]
    a, b, c, d = resampled_metrics(conditions, num_classes, groups_N, draws, generator)
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


def percentiles(values: Tensor) -> Interval | None:
    """The 95 % percentile interval of values that are not NaN; None without any."""
    values = values[~values.isnan()]
    if len(values) == 0:
        return None
    low, high = torch.quantile(values, values.new_tensor([0.025, 0.975])).tolist()
    return low, high


def resampled_metrics(
    conditions: Sequence[tuple[Tensor, Tensor]],
    num_classes: int,
    groups_N: Tensor | None,
    draws: int,
    generator: Generator,
) -> list[dict[str, Tensor]]:
    """For each condition (labels_N, predicted_N): `metrics.rates` of every draw, (draws,) each; all
    conditions share the draws, and calls with the same images and equal generators too."""
    if draws < 1:
        raise ValueError(f"draws={draws}: a bootstrap needs at least 1 draw")
    tables = torch.cat(
        [hit_table(labels_N, predicted_N, num_classes) for labels_N, predicted_N in conditions],
        dim=1,
    )
    units_N, strata_U = _units(conditions[0][0], groups_N, num_classes)
    per_unit = tables.new_zeros(len(strata_U), tables.shape[1]).index_add_(0, units_N, tables)
    # All are whole numbers, so float32 sums are exact up to 2^24 images.
    sums = torch.cat([counts @ per_unit for counts in _draws(strata_U, draws, generator)]).to(
        torch.float64
    )
    return [rates(Counts(*part.chunk(3, dim=1))) for part in sums.chunk(len(conditions), dim=1)]


def _units(labels_N: Tensor, groups_N: Tensor | None, num_classes: int) -> tuple[Tensor, Tensor]:
    """What is drawn as a whole: (N,) each image's unit and (U,) each unit's stratum, its commonest
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
