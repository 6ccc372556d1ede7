"""Cells that were never run: predictions of known quality, and reports that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from fedrobust.evaluation.drops import combined_drop
from fedrobust.evaluation.metrics import classification_metrics
from fedrobust.experiment.compose import compose
from fedrobust.reporting.predictions import write_predictions
from fedrobust.studies.comparison.cell_results import Result
from fedrobust.studies.comparison.grid import NOBODY, Cell
from fedrobust.studies.comparison.results_table import ComparisonResults
from fedrobust.utils.seeding import generator
from tests.helpers import reports

CLASSES, IMAGES = 4, 240
LABELS = torch.arange(IMAGES) % CLASSES


def answers(right: float, *purpose: Any) -> torch.Tensor:
    """(N, K) probabilities that name the right class with chance `right`, otherwise the next
    one."""
    hit = torch.rand(IMAGES, generator=generator(0, *purpose)) < right
    return 0.9 * torch.eye(CLASSES)[torch.where(hit, LABELS, (LABELS + 1) % CLASSES)] + 0.025


@lru_cache
def plain_config() -> dict[str, Any]:
    """A configuration of ten clients and five rounds."""
    return compose("device=cpu", "server.batchnorm=mean")


def cell(
    rule: str, attack: str = NOBODY, poisoned: int = 0, seed: int = 0, **contamination: Any
) -> Cell:
    config = {
        **plain_config(),
        "seed": seed,
        "poisoned": poisoned,
        "strategy": {"_target_": rule},
        "contamination": {"_target_": attack, **contamination},
    }
    return Cell(rule, attack, poisoned, seed, config)


def result(folder: Path, one: Cell, scores: dict[str, torch.Tensor]) -> Result:
    """scores: at least twin_clean, clean and corrupted."""
    place = folder / one.folder
    write_predictions(place, LABELS, torch.arange(IMAGES), scores)
    report = reports.report(10, one.poisoned, 0)
    report["evaluations"] = {
        name: classification_metrics(part, LABELS) for name, part in scores.items()
    }
    report["evaluations"]["twin_corrupted"] = report["evaluations"]["twin_clean"]
    for name, (normal, attack) in {
        "poisoning": ("twin_clean", "clean"),
        "total": ("twin_clean", "corrupted"),
    }.items():
        report["drops"][name] = asdict(
            combined_drop(report["evaluations"][normal], report["evaluations"][attack])
        )
    report |= {"seed": one.seed, "strategy": one.strategy}
    report["fairness"] = reports.fairness(10, CLASSES, twin=True)
    cost = {"seconds": 10.0, "peak_memory": 5e8, "peak_gpu_memory": None}
    return Result(
        one,
        place,
        reports.typed(report),
        reports.rounds(10, one.poisoned, 0),
        cost,
        "program",
        1000,
    )


def scores(right: float, *purpose: Any, grades: bool = False) -> dict[str, torch.Tensor]:
    """The twin is right in 90 % of the images, the run in the given share."""
    seed = purpose[-1]
    found = {
        "twin_clean": answers(0.9, "twin", seed),
        "clean": answers(right, *purpose),
        "corrupted": answers(right / 2, "c", *purpose),
    }
    return found | (
        {f"corrupted_s{s}": answers(right * (1 - s / 8), s, *purpose) for s in (1, 3)}
        if grades
        else {}
    )


RIGHT = {"good": 0.88, "same": 0.87, "bad": 0.5}


def findings(
    folder: Path,
    seeds: tuple[int, ...] = (0, 1, 2),
    counts: tuple[int, ...] = (0, 1, 3),
    draws: int = 400,
) -> ComparisonResults:
    """Rule "bad" loses much, "good" and "same" hardly anything, the more the more clients are
    poisoned."""
    attacks, results = ("flip", "noise"), []
    for seed in seeds:
        for rule, right in RIGHT.items():
            for count in counts:
                for attack in attacks if count else (NOBODY,):
                    made = scores(
                        0.9 - (0.9 - right) * count / 3, rule, attack, count, seed, grades=True
                    )
                    made = made if count else {**made, "clean": made["twin_clean"]}
                    results.append(result(folder, cell(rule, attack, count, seed), made))
    uses = {"good": frozenset({"root", "proxy"}), "same": frozenset[str](), "bad": frozenset[str]()}
    return ComparisonResults(tuple(RIGHT), attacks, seeds, uses, tuple(results), {}, draws)


def renamed(found: ComparisonResults, names: Mapping[str, str]) -> ComparisonResults:
    """The same with other names of rules and attacks; folders keep theirs."""

    def new(name: str) -> str:
        return names.get(name, name)

    def moved(one: Cell) -> Cell:
        return replace(one, strategy=new(one.strategy), contamination=new(one.contamination))

    return ComparisonResults(
        tuple(map(new, found.rules)),
        tuple(map(new, found.attacks)),
        found.seeds,
        {new(rule): uses for rule, uses in found.uses.items()},
        tuple(replace(one, cell=moved(one.cell)) for one in found.results),
        {moved(one): reason for one, reason in found.failed.items()},
        found.draws,
    )


def without(found: ComparisonResults, reason: str, **wanted: object) -> ComparisonResults:
    """The same where the cells with these properties, e.g. seed=1, have failed."""
    lost = [
        one
        for one in found.results
        if all(getattr(one.cell, key) == value for key, value in wanted.items())
    ]
    return replace(
        found,
        results=tuple(one for one in found.results if one not in lost),
        failed={**found.failed, **{one.cell: reason for one in lost}},
    )


def no_backdoor(found: ComparisonResults) -> ComparisonResults:
    """The same without success rates."""
    results = [
        replace(one, report=one.report.model_copy(update={"attack_success_rate": None}))
        for one in found.results
    ]
    return replace(found, results=tuple(results))
