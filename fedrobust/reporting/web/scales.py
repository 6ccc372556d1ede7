"""Numbers on axes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis. title: with the unit. ticks: values with a mark, and their texts."""

    low: float
    high: float
    title: str = ""
    ticks: tuple[tuple[float, str], ...] = ()

    def place(self, value: float, start: float, end: float) -> float:
        """Where a value lies between the coordinates of the axis's two ends."""
        return start + (value - self.low) / (self.high - self.low) * (end - start)


def axis(
    values: Iterable[float | None],
    title: str = "",
    *,
    include: tuple[float, ...] = (),
    most: int = 6,
    whole: bool = False,
) -> Axis:
    """The axis that holds all values, from one round number to another.

    Args:
        values: what is drawn; None and values that are not finite are left out.
        title: of the axis, with the unit.
        include: further values that it must hold.
        most: ticks at most, about.
        whole: only whole numbers have ticks.
    """
    known = [one for one in (*values, *include) if one is not None and math.isfinite(one)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low < 1e-9:
        high = low + 1.0
    step = _step((high - low) / max(most - 1, 1))
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    marks = [step * number for number in range(first, last + 1)]
    return Axis(marks[0], marks[-1], title, tuple((mark, tick_text(mark)) for mark in marks))


def percent_axis(title: str) -> Axis:
    """0 to 100 %."""
    return axis((0.0, 100.0), title)


def _step(rough: float) -> float:
    size = 10.0 ** math.floor(math.log10(rough))
    return next(size * step for step in STEPS if size * step >= rough * (1 - 1e-9))


def tick_text(value: float) -> str:
    """A short number with a true minus sign."""
    return f"{value + 0.0:.6g}".replace("-", "\u2212")
