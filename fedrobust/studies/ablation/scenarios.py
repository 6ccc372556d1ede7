"""What a cleanly trained model answers on the test images under every scenario, kept beside its training so that it is asked once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from fedrobust.contamination.base import Contamination
from fedrobust.experiment import build
from fedrobust.experiment import factories as settings
from fedrobust.experiment.experiment import Experiment
from fedrobust.learning.model_files import load_state
from fedrobust.reporting.predictions import PREDICTIONS, read_predictions, write_predictions
from fedrobust.runtime.server.loop import make_server, probabilities
from fedrobust.studies.ablation.plan import Scenario
from fedrobust.studies.comparison.grid import Cell

FOLDER = "scenarios"


def place(folder: Path, scenario: Scenario) -> Path:
    """Where the answers of the training in this folder lie; other settings of a scenario are another place."""
    return folder / FOLDER / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', str(scenario))}-{scenario.digest[:10]}"


def waiting(folder: Path, scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Those that the model in this folder has not been asked about."""
    return [one for one in scenarios if not (place(folder, one) / PREDICTIONS).exists()]


def judge(cell: Cell, folder: Path, scenarios: Sequence[Scenario], tell: Callable[[], None] = lambda: None) -> None:
    """Ask the model of a finished training about the test images under these scenarios, whose noise is that of the training's seed.

    tell: called after each. Raises ConfigError or DataError, RunError for answers that are not finite, OSError.
    """
    study = build.build(cell.config)
    server = make_server(study)
    state, _ = load_state(folder / "model.safetensors", server.layout)
    rows = study.test_rows()
    clean = study.samples(rows)
    for one in scenarios:
        scores = probabilities(server, state, replace(study, corruption=damage(study, one)).corrupted(clean))
        write_predictions(place(folder, one), study.dataset.labels[rows], study.dataset.groups[rows], {str(one): scores})
        tell()


def damage(study: Experiment, scenario: Scenario) -> Contamination:
    """The scenario's contamination for the study's classes. Raises ConfigError."""
    classes = {"num_classes": study.num_classes, "class_names": study.dataset.class_names}
    built: Contamination = settings.build({"corruption": scenario.settings}, "corruption", **classes)
    return built


def answers(folder: Path, scenario: Scenario) -> Tensor:
    """The classes (N,) that were answered. Raises FileNotFoundError or DataError."""
    return read_predictions(place(folder, scenario)).predicted[str(scenario)]
