"""Trainings that were never done: predictions of known quality, and what an ablation makes of
them."""

from __future__ import annotations

import json
from pathlib import Path

from fedrobust.reporting.predictions import write_predictions
from fedrobust.studies.ablation.plan import Plan, Scenario
from fedrobust.studies.ablation.results import AblationResults, summarise_training
from fedrobust.studies.ablation.scenarios import answers_path
from fedrobust.studies.comparison.grid import NOBODY, Cell, Grid, Variant
from tests.helpers.comparisons import CLASSES, IMAGES, LABELS, answers, cell, result

# the share of clean images that a model answers rightly
RIGHT = {"baseline": 0.6, "ETF": 0.8, "mine": 0.8}
NOISY = {"baseline": 0.3, "ETF": 0.78, "mine": 0.4}
FLIPS = {"flip 10 %": 0.1, "flip 40 %": 0.4}
SCENARIOS = (
    Scenario("hair", 1, {"severity": 1}),
    Scenario("hair", 5, {"severity": 5}),
    Scenario("text", None, {"rate": 1.0}),
)


def plan(out: Path, seeds: tuple[int, ...] = (0, 1, 2), draws: int = 300) -> Plan:
    models = tuple(Variant(name, (f"model={name}",)) for name in RIGHT)
    return Plan(
        Grid(
            models, tuple(Variant(name, ()) for name in FLIPS), (0, 1), seeds, 1, 1, draws, out, ()
        ),
        SCENARIOS,
    )


def one_cell(model: str, poisoning: str, seed: int) -> Cell:
    rate = FLIPS.get(poisoning, 1.0)
    made = cell(
        model, "flip" if poisoning != NOBODY else NOBODY, int(poisoning != NOBODY), seed, rate=rate
    )
    shared = {
        "_target_": "a.trainer",
        "epochs": 9,
        "batch_size": 8,
        "optimizer": {"name": "Adam", "lr": 1e-4},
        "early_stopping": 3,
    }
    more = {
        "data": {"_target_": "some.images", "size": 28}, "client": shared,
        "model": {"_target_": "a.model", "name": "small"},
        "corruption": {"_target_": "a.noise", "std": 0.01, "severity": None},
    }  # fmt: skip
    return Cell(model, poisoning, made.poisoned, seed, {**made.config, **more})


def findings(
    out: Path, seeds: tuple[int, ...] = (0, 1, 2), missing: tuple[str, ...] = ()
) -> AblationResults:
    """The baseline is worse and loses half under noise, "ETF" hardly anything, "mine" half;
    poisoning costs every model its rate."""
    made, chosen = [], plan(out, seeds)
    for model in [name for name in RIGHT if name not in missing]:
        for seed in seeds:
            clean = answers(RIGHT[model], model, "clean", seed)
            noisy = {"corrupted": answers(NOISY[model], model, "noise", seed)}
            noisy |= {
                f"corrupted_s{s}": answers(RIGHT[model] * (1 - s / 8), model, s, seed)
                for s in (1, 3)
            }
            one = result(
                out, one_cell(model, NOBODY, seed), {"clean": clean, "twin_clean": clean, **noisy}
            )
            asked = {
                str(scenario): answers(RIGHT[model] - 0.2, model, str(scenario), seed)
                for scenario in SCENARIOS
            }
            for scenario in SCENARIOS:
                write_predictions(
                    answers_path(one.folder, scenario),
                    LABELS,
                    LABELS,
                    {str(scenario): asked[str(scenario)]},
                )
            predicted = {
                name: part.argmax(1)
                for name, part in {"clean": clean, "twin_clean": clean, **noisy, **asked}.items()
            }
            made.append(
                summarise_training(
                    one,
                    predicted,
                    chosen.grid.draws,
                    CLASSES,
                    (LABELS, LABELS.new_tensor(range(IMAGES))),
                )
            )
            for poisoning, rate in FLIPS.items():
                hit = answers(RIGHT[model] * (1 - rate), model, poisoning, seed)
                two = result(
                    out,
                    one_cell(model, poisoning, seed),
                    {"clean": hit, "twin_clean": clean, "corrupted": hit},
                )
                both = {"clean": hit.argmax(1), "twin_clean": clean.argmax(1)}
                made.append(
                    summarise_training(
                        two,
                        both,
                        chosen.grid.draws,
                        CLASSES,
                        (LABELS, LABELS.new_tensor(range(IMAGES))),
                    )
                )
    for one in made:
        data = {"name": "toy", "classes": ["a", "b", "c", "d"], "splits": [70, 20, IMAGES]}
        (one.result.folder / "manifest.json").write_text(json.dumps({"data": data}))
    return AblationResults(
        chosen, tuple(made), {one_cell(name, NOBODY, 0): "it went wrong" for name in missing}
    )
