"""All that a grid gave, ready to be asked: by rule, attack, number of poisoned clients and seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from fedrobust.evaluation.drops import combined_drop
from fedrobust.evaluation.statistics import DropTable
from fedrobust.experiment.settings import to_json
from fedrobust.studies.comparison.analysis import Draws, Found, drop_table, resample
from fedrobust.studies.comparison.cell_results import Result, severity
from fedrobust.studies.comparison.grid import NOBODY, WEAK_BELOW, Cell

GRADE = "corrupted_s"


@dataclass(frozen=True)
class ComparisonResults:
    """rules, attacks, seeds in the order of the grid; uses: {rule: the server's data that it used,
    of "root" and "proxy"}; failed: why, by cell; weak_below: combined drop of `fedavg`, in %, below
    which an attack is weak."""

    rules: tuple[str, ...]
    attacks: tuple[str, ...]
    seeds: tuple[int, ...]
    uses: Mapping[str, frozenset[str]]
    results: tuple[Result, ...]
    failed: Mapping[Cell, str]
    draws: int
    weak_below: float = WEAK_BELOW

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """The numbers of poisoned clients but 0, ascending."""
        cells = [*(one.cell for one in self.results), *self.failed]
        return tuple(sorted({cell.poisoned for cell in cells} - {0}))

    @cached_property
    def most(self) -> int:
        """The largest number of poisoned clients, 0 without poisoned clients."""
        return max(self.counts, default=0)

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, int, int], Result]:
        return {
            (one.cell.strategy, one.cell.contamination, one.cell.poisoned, one.cell.seed): one
            for one in self.results
        }

    @cached_property
    def _draws(self) -> Draws:
        """Corruption grades only where most clients are poisoned: that is where they are shown."""
        return resample(
            self.results,
            lambda one: [
                "clean",
                *(graded_severities(one) if one.cell.poisoned == self.most else []),
            ],
            self.draws,
        )

    def result(self, rule: str, attack: str, poisoned: int, seed: int) -> Result | None:
        """A finished cell; without poisoned clients the attack does not matter."""
        return self._by_key.get((rule, attack if poisoned else NOBODY, poisoned, seed))

    def all(self, rule: str, poisoned: int | None = None) -> list[Result]:
        """The finished cells of a rule (with so many poisoned clients)."""
        return [
            one
            for one in self.results
            if one.cell.strategy == rule and poisoned in (None, one.cell.poisoned)
        ]

    def twins(self, rule: str) -> list[Result]:
        """One finished cell of a rule for each seed: all of a seed have the same clean twin."""
        return list({one.cell.seed: one for one in self.all(rule)}.values())

    def under(self, rule: str, attack: str, poisoned: int) -> list[Result]:
        """The finished cells of a rule under an attack, by seed."""
        cells = [self.result(rule, attack, poisoned, seed) for seed in self.seeds]
        return [one for one in cells if one is not None]

    def success_rate(self, rule: str, attack: str, poisoned: int) -> float | None:
        """How often a backdoor's trigger works, in %, mean over seeds; None without a backdoor."""
        cells = self.under(rule, attack, poisoned)
        return mean_of_known(one.report.attack_success_rate for one in cells)

    def poisoning(self, poisoned: int, attacks: Sequence[str] | None = None) -> DropTable:
        """The combined drop from the clean twin to the run, both on the clean test images."""
        return self._drop_table(poisoned, "clean", attacks)

    def corrupted(self, poisoned: int, grade: str) -> DropTable:
        """The combined drop from the clean twin on clean test images to the run on corrupted
        ones."""
        return self._drop_table(poisoned, grade, None)

    def _drop_table(
        self, poisoned: int, evaluation: str, attacks: Sequence[str] | None
    ) -> DropTable:
        def find(rule: str, attack: str, seed: int) -> Found | None:
            result = self.result(rule, attack, poisoned, seed)
            if result is None:
                return None
            return drop_between(result, evaluation), self._draws.drops[
                result.folder.name, evaluation
            ]

        return drop_table(
            (self.rules, (attacks or self.attacks) if poisoned else [NOBODY], self.seeds),
            find,
            self.draws,
        )

    def over_seeds(self, poisoned: int, value: Callable[[Result], float | None]) -> DropTable:
        """Any value of the cells; its replicates resample seeds only.

        Args:
            poisoned: number of poisoned clients.
            value: of a cell; None: undefined.
        """

        def find(rule: str, attack: str, seed: int) -> Found | None:
            result = self.result(rule, attack, poisoned, seed)
            found = None if result is None else value(result)
            if found is None:
                return None
            return found, torch.full((self.draws,), found, dtype=torch.float64)

        attacks = self.attacks if poisoned else (NOBODY,)
        return drop_table((self.rules, attacks, self.seeds), find, self.draws)

    def clean_f1(self) -> DropTable:
        """Macro F1 of the clean twins on clean test images, as the one column of a board."""

        def find(rule: str, _: str, seed: int) -> Found | None:
            twin = next((one for one in self.all(rule) if one.cell.seed == seed), None)
            if twin is None:
                return None
            return twin.report.evaluations["twin_clean"].f1, self._draws.clean_f1[twin.folder.name]

        return drop_table((self.rules, [NOBODY], self.seeds), find, self.draws)

    def grades(self) -> list[str]:
        """The graded corruptions of the test images that all cells with most poisoned clients
        have."""
        found = [
            set(graded_severities(one)) for one in self.results if one.cell.poisoned == self.most
        ]
        return sorted(set.intersection(*found)) if found else []

    def severities(self) -> list[dict[float, str]]:
        """Attacks that differ in their severity only: {severity: attack} for each such family of
        two or more."""
        families: dict[str, dict[float, str]] = {}
        for result in self.results:
            grade = severity(result.cell)
            if grade is not None:
                rest = {
                    key: value
                    for key, value in result.cell.settings.contamination.written.items()
                    if key != "severity"
                }
                families.setdefault(to_json(rest), {})[grade] = result.cell.contamination
        return [dict(sorted(family.items())) for family in families.values() if len(family) > 1]


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of those that are not None; None without any."""
    known = [one for one in values if one is not None]
    return sum(known) / len(known) if known else None


def graded_severities(result: Result) -> list[str]:
    """The names of the graded corruptions among a cell's evaluations."""
    return sorted(name for name in result.report.evaluations if name.startswith(GRADE))


def drop_between(result: Result, evaluation: str) -> float | None:
    """The combined drop from the clean twin to an evaluation, as measured."""
    evaluations = result.report.evaluations
    normal, attack = evaluations["twin_clean"].values, evaluations[evaluation].values
    return combined_drop(normal, attack).combined
