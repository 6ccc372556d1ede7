"""The poster's printed values, what its own formula gives for its own values, and how its combined
column arose (docs/drops.md).

Clean and noisy values: the only numbers of three decimals that agree with all that is known of the
poster's tables, not copies of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedrobust.evaluation.drops import METRICS, Drop, combined_drop

# model: (clean, noisy) of accuracy, macro F1 and macro precision as fractions
VALUES: Mapping[str, tuple[tuple[float, float], ...]] = {
    "baseline": ((0.384, 0.240), (0.314, 0.171), (0.288, 0.260)),
    "ETF": ((0.443, 0.314), (0.365, 0.280), (0.357, 0.390)),
    "ETF+Rect": ((0.463, 0.332), (0.399, 0.293), (0.420, 0.283)),
    "ETF+Rect+DML": ((0.467, 0.315), (0.449, 0.376), (0.469, 0.287)),
}
# its "combined" column
PRINTED: Mapping[str, float] = {
    "baseline": 12.57,
    "ETF": 9.72,
    "ETF+Rect": 9.51,
    "ETF+Rect+DML": 10.93,
}


def level(model: str, noisy: bool) -> dict[str, float] | None:
    """Accuracy, F1 and precision in % on clean or noisy images; None for a model that the poster
    has not."""
    if model not in VALUES:
        return None
    return {metric: 100 * pair[noisy] for metric, pair in zip(METRICS, VALUES[model], strict=True)}


def drop(model: str) -> Drop | None:
    """The combined drop by the poster's formula; None for a model that it has not."""
    clean, noisy = level(model, False), level(model, True)
    return None if clean is None or noisy is None else combined_drop(clean, noisy)


def mixed_units(model: str) -> float | None:
    """The number that was printed, but for rounding: the accuracy drop in per cent, the others as
    differences of fractions, over three."""
    found = drop(model)
    if found is None:
        return None
    relative = found.per_metric["accuracy"]["drop"] or 0.0
    return (relative + sum(clean - noisy for clean, noisy in VALUES[model][1:])) / 3
