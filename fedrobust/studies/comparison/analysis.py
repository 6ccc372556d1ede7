"""From the predictions of the cells to boards of rules and attacks, to their ranking and to what
differs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrobust.errors import DataError
from fedrobust.evaluation.drops import combined_draws, resampled_metrics
from fedrobust.evaluation.statistics import (
    LEVEL,
    DropTable,
    Estimate,
    Replicates,
    holm,
    letter_groups,
    sample_seeds,
)
from fedrobust.reporting.predictions import Predictions
from fedrobust.studies.comparison.cell_results import Result
from fedrobust.utils.seeding import generator

MOST_COUNTS = 1 << 25  # held at once, in float64
Found = tuple[float | None, Tensor]  # as measured, and its replicates (B,)


@dataclass(frozen=True)
class Draws:
    """Replicates (B,) of every cell, by cell folder: all made from the same resampled images.
    clean_f1: of the clean twin."""

    clean_f1: Mapping[str, Tensor]
    # (cell folder, evaluation): the combined drop from the clean twin to that evaluation
    drops: Mapping[tuple[str, str], Tensor]

    @property
    def number(self) -> int:
        return len(next(iter(self.clean_f1.values())))


def resample(
    results: Sequence[Result], attacked: Callable[[Result], Sequence[str]], draws: int
) -> Draws:
    """Replicates of all cells. attacked: the evaluations of a cell whose drop from its clean twin
    is wanted, e.g. ["clean"].

    Raises DataError where a cell's predictions are damaged or of other images.
    """
    clean_f1: dict[str, Tensor] = {}
    drops: dict[tuple[str, str], Tensor] = {}
    waiting: list[tuple[str, list[str], Predictions]] = []
    first: Predictions | None = None
    for place, result in enumerate(results, start=1):
        found = result.predictions()
        first = first or found
        if not (
            torch.equal(first.labels, found.labels) and torch.equal(first.groups, found.groups)
        ):
            raise DataError(
                f"{result.folder}: was evaluated on other test images than the other "
                "cells; delete it and run again"
            )
        waiting.append((result.folder.name, ["twin_clean", *attacked(result)], found))
        columns = sum(3 * found.num_classes * len(names) for _, names, _ in waiting)
        if columns * draws >= MOST_COUNTS or place == len(results):
            for folder, metrics in _together(waiting, draws):
                clean_f1[folder] = metrics["twin_clean"]["f1"]
                drops |= {
                    (folder, name): combined_draws(metrics["twin_clean"], metrics[name])
                    for name in metrics
                }
            waiting = []
    return Draws(clean_f1, drops)


def _together(
    waiting: Sequence[tuple[str, Sequence[str], Predictions]], draws: int
) -> Iterator[tuple[str, Mapping[str, Mapping[str, Tensor]]]]:
    """(cell folder, {evaluation: metrics of every replicate}). Each call starts from an equal
    generator: the same images for all."""
    first = waiting[0][2]
    conditions = [
        (found.labels, found.predicted[name]) for _, names, found in waiting for name in names
    ]
    metrics = iter(
        resampled_metrics(
            conditions, first.num_classes, first.groups, draws, generator(0, "compare", "images")
        )
    )
    for folder, names, _ in waiting:
        yield folder, {name: next(metrics) for name in names}


def drop_table(
    shape: Sequence[Sequence[object]], find: Callable[..., Found | None], draws: int
) -> DropTable:
    """A board of (rules, attacks, seeds); `find` gives what is known for one of each, or None."""
    rules, attacks, seeds = shape
    nothing = torch.full((draws,), torch.nan, dtype=torch.float64)
    values, rows = [], []
    for rule, attack, seed in itertools.product(rules, attacks, seeds):
        value, row = find(rule, attack, seed) or (None, nothing)
        values.append(torch.nan if value is None else value)
        rows.append(nothing if value is None else row)
    size = [len(part) for part in shape]
    measured = Replicates(
        torch.tensor(values, dtype=torch.float64).view(size), torch.stack(rows).view(*size, draws)
    )
    return DropTable(measured, sample_seeds(len(seeds), draws, generator(0, "compare", "seeds")))


@dataclass(frozen=True)
class Ranking:
    """order: rules by their mean over attacks, the lowest first, those without one last.
    differences: mean of rule i minus that of rule j for i before j in the order; adjusted: their p
    after Holm over all pairs; letters: by rule, "" without a mean."""

    table: DropTable
    means: Sequence[Estimate]
    order: Sequence[int]
    differences: Mapping[tuple[int, int], Estimate]
    adjusted: Mapping[tuple[int, int], float]
    letters: Mapping[int, str]

    @property
    def groups(self) -> list[list[int]]:
        """The rules that share a letter, by letter, each group in the order."""
        named = {
            rule: re.findall(r"[a-z][0-9]*", letters) for rule, letters in self.letters.items()
        }
        letters = dict.fromkeys(letter for own in named.values() for letter in own)
        return [[rule for rule, own in named.items() if letter in own] for letter in letters]


@dataclass(frozen=True)
class AverageRanks:
    """Ranks by the drop within each block, averaged. means: by rule, 1 is the lowest drop; blocks:
    attacks times seeds that all these rules have; lost: those that a rule lacks."""

    means: Mapping[int, float]
    blocks: int
    lost: int


def average_ranks(judged: DropTable, rules: Sequence[int]) -> AverageRanks:
    """Ranks of rules, equal drops sharing the mean of their ranks.

    Reference:
        Demsar, J Mach Learn Res 7:1, 2006.
    """
    drops = judged.measured.values[list(rules)].flatten(1)
    whole = drops.isfinite().all(dim=0)
    drops = drops[:, whole]
    lower = (drops[None] < drops[:, None]).sum(dim=1)
    equal = (drops[None] == drops[:, None]).sum(dim=1) - 1
    means = (1 + lower + equal / 2).mean(dim=1).tolist()
    return AverageRanks(dict(zip(rules, means, strict=True)), int(whole.sum()), int((~whole).sum()))


def rank(judged: DropTable) -> Ranking:
    """The rules of a board in their order, and which of them differ."""
    means = [judged.mean(rule) for rule in range(len(judged.measured.values))]
    complete = sorted(
        (rule for rule, mean in enumerate(means) if mean.value is not None),
        key=lambda rule: (means[rule].value, rule),
    )
    order = [*complete, *(rule for rule in range(len(means)) if rule not in complete)]
    differences = {pair: judged.difference(*pair) for pair in itertools.combinations(complete, 2)}
    tested = {pair: one.p for pair, one in differences.items() if one.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    places = {rule: place for place, rule in enumerate(complete)}
    different = [(places[one], places[other]) for (one, other), p in adjusted.items() if p < LEVEL]
    letters = (
        dict(zip(complete, letter_groups(len(complete), different), strict=True))
        if complete
        else {}
    )
    return Ranking(judged, means, order, differences, adjusted, letters)


def enough_draws(pairs: int, draws: int) -> bool:
    """Whether any of so many pairs can be found different after Holm at all: the smallest p is 2 /
    (1 + draws)."""
    return pairs == 0 or 2 * pairs / (1 + draws) < LEVEL
