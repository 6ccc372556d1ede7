"""Predictions of a cleanly trained model under every scenario, kept beside its training so that
they are made once."""

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
from fedrobust.runtime.server.loop import build_server_context, predict_global
from fedrobust.state import frozen_tensors
from fedrobust.studies.ablation.plan import Scenario
from fedrobust.studies.comparison.grid import Cell
from fedrobust.utils.plugins import PLUGINS

FOLDER = "scenarios"


def answers_path(folder: Path, scenario: Scenario) -> Path:
    """Path of the answers of the training in this folder; other settings of a scenario have another
    path."""
    return (
        folder
        / FOLDER
        / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', str(scenario))}-{scenario.digest[:10]}"
    )


def unanswered(folder: Path, scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Those that the model in this folder has not been asked about."""
    return [one for one in scenarios if not (answers_path(folder, one) / PREDICTIONS).exists()]


def evaluate_scenarios(
    cell: Cell,
    folder: Path,
    scenarios: Sequence[Scenario],
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Ask the model of a finished training about the test images under these scenarios, whose noise
    is that of the training's seed.

    on_progress: called after each. Raises ConfigError or DataError, RunError for answers that are
    not finite, OSError.
    """
    experiment = build.build_experiment(cell.config)
    server = build_server_context(experiment)
    state, _ = load_state(folder / "model.safetensors", server.layout, frozen_tensors(server.model))
    rows = experiment.test_rows()
    clean = experiment.samples(rows)
    for one in scenarios:
        scores = predict_global(
            server,
            state,
            replace(experiment, corruption=build_contamination(experiment, one)).corrupt(clean),
        )
        write_predictions(
            answers_path(folder, one),
            experiment.dataset.labels[rows],
            experiment.dataset.groups[rows],
            {str(one): scores},
        )
        on_progress()


def build_contamination(experiment: Experiment, scenario: Scenario) -> Contamination:
    """The scenario's contamination for the experiment's classes. Raises ConfigError."""
    classes = {"num_classes": experiment.num_classes, "class_names": experiment.dataset.class_names}
    built: Contamination = settings.build_group(
        {"corruption": scenario.settings, PLUGINS: experiment.settings.plugins},
        "corruption",
        **classes,
    )
    return built


def read_answers(folder: Path, scenario: Scenario) -> Tensor:
    """The classes (N,) that were answered. Raises FileNotFoundError or DataError."""
    return read_predictions(answers_path(folder, scenario)).predicted[str(scenario)]
