"""What the ensemble command says of its models, worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedrobust.experiment import build
from fedrobust.experiment.experiment import Experiment
from fedrobust.studies.meff.scores import Answers, plain, summary, tried
from tests.helpers import federation


def studied(draws: int) -> Experiment:
    config = federation.server().experiment.config
    return build.build({**config, "evaluation": {**config["evaluation"], "draws": draws}})


def answered(study: Experiment, right: Tensor) -> Tensor:
    """Probabilities that name the label where `right`, else the next class."""
    labels = study.dataset.labels[tried(study)]
    named = torch.where(right, labels, (labels + 1) % study.num_classes)
    return torch.nn.functional.one_hot(named, study.num_classes).float()


def test_means_over_seeds_and_the_gain_over_single_models() -> None:
    study = studied(50)
    every = torch.ones(len(tried(study)), dtype=torch.bool)
    # seed 0: members 100 and 0, fusion 100; seed 1: members 0 and 0, fusion 100. Means 50, 0, 100; gain 100 - 25
    found: list[Answers] = [
        {("member 0", "clean"): answered(study, every if seed == 0 else ~every), ("member 1", "clean"): answered(study, ~every),
         ("fusion", "clean"): answered(study, every)}
        for seed in (0, 1)
    ]  # fmt: skip
    rows = summary(study, tried(study), found)
    assert [row.metrics["balanced_accuracy"].value for row in rows] == [50, 0, 100]
    assert [row.gain is None for row in rows] == [True, True, False]
    gain = rows[2].gain
    assert gain is not None
    assert (gain.value, gain.low, gain.high) == pytest.approx(
        (75, 75 - 35.355339, 75 + 35.355339)
    )  # 25 * sqrt(2 / (2 - 1)), see over_seeds
    assert plain(rows)[2]["accuracy"] == {"value": 100, "low": 100, "high": 100}


def test_without_draws_there_are_no_intervals() -> None:
    study = studied(0)
    half = torch.arange(len(tried(study))) % 2 == 0
    [row] = summary(study, tried(study), [{("global model", "clean"): answered(study, half)}])
    one = row.metrics["accuracy"]
    assert (one.value, one.low, one.high) == (pytest.approx(100 * float(half.double().mean())), None, None)
