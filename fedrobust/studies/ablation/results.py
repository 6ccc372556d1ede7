"""All that an ablation gave, ready to be asked: by model, condition and seed, every number with its
interval.

A replicate resamples test images (whole lesions where they are known), the same ones for all
trainings and conditions, and seeds (`comparison.statistics`). A drop is always
`drops.combined_drop` of one training, before anything is averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedrobust.errors import DataError
from fedrobust.evaluation.drops import combined_draws, combined_drop, resampled_metrics
from fedrobust.evaluation.metrics import Counts, hit_table, rates
from fedrobust.evaluation.statistics import DropTable
from fedrobust.studies.ablation.plan import Plan
from fedrobust.studies.ablation.scenarios import read_answers
from fedrobust.studies.comparison.analysis import Found, drop_table
from fedrobust.studies.comparison.cell_results import Result, read_result
from fedrobust.studies.comparison.executor import CELLS
from fedrobust.studies.comparison.grid import NOBODY, Cell
from fedrobust.utils.seeding import generator

CLEAN, NOISE, GRADE, TWIN = "clean", "corrupted", "corrupted_s", "twin_clean"
THRESHOLD = ("accuracy", "balanced_accuracy", "f1", "precision")  # the metrics that have intervals

Metrics = Mapping[str, float | None]


@dataclass(frozen=True)
class Trained:
    """A finished training. evaluations: {condition: metrics in %}; drops: {condition: replicates
    (B,) of the combined drop from its normal condition}; levels: {condition: {metric: replicates}}
    of the clean and the noisy condition."""

    result: Result
    evaluations: Mapping[str, Metrics]
    drops: Mapping[str, Tensor]
    levels: Mapping[str, Mapping[str, Tensor]]

    @property
    def normal(self) -> str:
        """Normal condition of its drops: its clean test images, or those of its clean twin where
        its training data were poisoned."""
        return TWIN if self.result.cell.poisoned else CLEAN

    def drop(self, condition: str) -> Mapping[str, float | None]:
        """The drop of every metric and the combined one, as measured."""
        drop = combined_drop(self.evaluations[self.normal], self.evaluations[condition])
        return {
            **{name: row["drop"] for name, row in drop.per_metric.items()},
            "combined": drop.combined,
        }


@dataclass(frozen=True)
class AblationResults:
    """trained: every finished training of the plan; failed: why others are missing."""

    plan: Plan
    trained: tuple[Trained, ...]
    failed: Mapping[Cell, str]

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, int], Trained]:
        return {
            (one.result.cell.strategy, one.result.cell.contamination, one.result.cell.seed): one
            for one in self.trained
        }

    def find(self, model: str, poisoning: str, seed: int) -> Trained | None:
        return self._by_key.get((model, poisoning, seed))

    def clean(self, model: str) -> Iterator[Trained]:
        """The clean trainings of a model."""
        return (
            one
            for seed in self.plan.grid.seeds
            if (one := self.find(model, NOBODY, seed)) is not None
        )

    def level(self, condition: str, metric: str) -> DropTable:
        """A metric of the clean models under "clean" or "corrupted", in %, as the one column of a
        board."""

        def find(model: str, _: str, seed: int) -> Found | None:
            one = self.find(model, NOBODY, seed)
            return (
                None
                if one is None
                else (one.evaluations[condition][metric], one.levels[condition][metric])
            )

        return self._drop_table([condition], find)

    def drops(self, conditions: Sequence[str]) -> DropTable:
        """The combined drop of the clean models from clean test images to each condition."""

        def find(model: str, condition: str, seed: int) -> Found | None:
            one = self.find(model, NOBODY, seed)
            return None if one is None else (one.drop(condition)["combined"], one.drops[condition])

        return self._drop_table(conditions, find)

    def poisoned(self) -> DropTable:
        """The combined drop from the clean to the poisoned training of each poisoning, both on
        clean test images."""

        def find(model: str, poisoning: str, seed: int) -> Found | None:
            one = self.find(model, poisoning, seed)
            return None if one is None else (one.drop(CLEAN)["combined"], one.drops[CLEAN])

        return self._drop_table(self.plan.poisonings, find)

    def grades(self) -> list[str]:
        """The graded severities of Experiment 2's noise."""
        return sorted(
            {name for one in self.trained for name in one.evaluations if name.startswith(GRADE)}
        )

    def _drop_table(
        self, columns: Sequence[str], find: Callable[[str, str, int], Found | None]
    ) -> DropTable:
        return drop_table(
            (self.plan.models, columns, self.plan.grid.seeds), find, self.plan.grid.draws
        )


def collect(plan: Plan, finished: Sequence[Cell], failed: Mapping[Cell, str]) -> AblationResults:
    """Read the finished trainings and resample them. Raises DataError where they were not evaluated
    on the same images, OSError."""
    trained: list[Trained] = []
    first: tuple[Tensor, Tensor] | None = None
    for cell in finished:
        result = read_result(cell, plan.grid.out / CELLS / cell.folder)
        found = result.predictions()
        first = first or (found.labels, found.groups)
        if not (torch.equal(first[0], found.labels) and torch.equal(first[1], found.groups)):
            raise DataError(
                f"{result.folder}: was evaluated on other test images than the others; "
                "delete it and run again"
            )
        predicted = {
            name: part for name, part in found.predicted.items() if name != "twin_corrupted"
        }
        if not cell.poisoned:
            predicted |= {str(one): read_answers(result.folder, one) for one in plan.scenarios}
        trained.append(
            summarise_training(result, predicted, plan.grid.draws, found.num_classes, first)
        )
    return AblationResults(plan, tuple(trained), failed)


def summarise_training(
    result: Result,
    predicted: Mapping[str, Tensor],
    draws: int,
    num_classes: int,
    images: tuple[Tensor, Tensor],
) -> Trained:
    """Every call starts from an equal generator: the same images are drawn for all trainings."""
    labels, groups = images
    wanted = [CLEAN, TWIN] if result.cell.poisoned else list(predicted)
    conditions = [(labels, predicted[name]) for name in wanted]
    made = resampled_metrics(
        conditions, num_classes, groups, draws, generator(0, "ablation", "images")
    )
    metrics = dict(zip(wanted, made, strict=True))
    normal = metrics[TWIN if result.cell.poisoned else CLEAN]
    evaluations = {name: _metrics(labels, part, num_classes) for name, part in predicted.items()}
    # AUROC and ECE too
    known = {
        name: {**evaluations.get(name, {}), **one.values}
        for name, one in result.report.evaluations.items()
    }
    levels = {
        name: {metric: metrics[name][metric] for metric in THRESHOLD}
        for name in (CLEAN, NOISE)
        if name in metrics
    }
    return Trained(
        result,
        evaluations | known,
        {name: combined_draws(normal, one) for name, one in metrics.items()},
        levels,
    )


def _metrics(labels_N: Tensor, predicted_N: Tensor, num_classes: int) -> dict[str, float | None]:
    sums = hit_table(labels_N, predicted_N, num_classes).to(torch.float64).sum(dim=0)
    return {name: float(value) for name, value in rates(Counts(*sums.chunk(3))).items()}
