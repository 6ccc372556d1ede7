"""Scores of the ensemble command, worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedrobust.experiment import build
from fedrobust.experiment.experiment import Experiment
from fedrobust.studies.meff.scores import Answers, summarise_scores, to_plain_rows
from tests.helpers import federations


def studied(draws: int) -> Experiment:
    config = federations.build_server().experiment.config
    return build.build_experiment(
        {**config, "evaluation": {**config["evaluation"], "bootstrap_samples": draws}}
    )


def answered(experiment: Experiment, right: Tensor) -> Tensor:
    """Probabilities that name the label where `right`, else the next class."""
    labels = experiment.dataset.labels[experiment.attacked_rows()]
    named = torch.where(right, labels, (labels + 1) % experiment.num_classes)
    return torch.nn.functional.one_hot(named, experiment.num_classes).float()


def test_means_over_seeds_and_the_gain_over_single_models() -> None:
    experiment = studied(50)
    every = torch.ones(len(experiment.attacked_rows()), dtype=torch.bool)
    # seed 0: members 100 and 0, fusion 100; seed 1: members 0 and 0, fusion 100. Means 50, 0, 100;
    # gain 100 - 25
    found: list[Answers] = [
        {
            ("member 0", "clean"): answered(experiment, every if seed == 0 else ~every),
            ("member 1", "clean"): answered(experiment, ~every),
            ("fusion", "clean"): answered(experiment, every),
        }
        for seed in (0, 1)
    ]
    rows = summarise_scores(experiment, experiment.attacked_rows(), found)
    assert [row.metrics["balanced_accuracy"].value for row in rows] == [50, 0, 100]
    assert [row.gain is None for row in rows] == [True, True, False]
    gain = rows[2].gain
    assert gain is not None
    assert (gain.value, gain.low, gain.high) == pytest.approx(
        (75, 75 - 35.355339, 75 + 35.355339)
    )  # 25 * sqrt(2 / (2 - 1)), see over_seeds
    assert to_plain_rows(rows)[2]["accuracy"] == {"value": 100, "low": 100, "high": 100}


def test_without_draws_there_are_no_intervals() -> None:
    experiment = studied(0)
    half = torch.arange(len(experiment.attacked_rows())) % 2 == 0
    [row] = summarise_scores(
        experiment,
        experiment.attacked_rows(),
        [{("global model", "clean"): answered(experiment, half)}],
    )
    one = row.metrics["accuracy"]
    assert (one.value, one.low, one.high) == (
        pytest.approx(100 * float(half.double().mean())),
        None,
        None,
    )
