"""Scores of `fedrobust.meff` over seeds: each model on clean and on attacked images, with
intervals; table and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from fedrobust.contamination import evasion
from fedrobust.evaluation.drops import resampled_metrics
from fedrobust.evaluation.metrics import classification_metrics
from fedrobust.evaluation.statistics import (
    NO_BOUNDS,
    SHARE,
    Estimate,
    Interval,
    Replicates,
    estimate,
    mean_over_seeds,
    number_or_nan,
    sample_seeds,
)
from fedrobust.experiment.experiment import Experiment
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.inference import predict
from fedrobust.reporting.console.tables import new_table
from fedrobust.reporting.text import format_number
from fedrobust.utils.seeding import generator

METRICS = ("accuracy", "balanced_accuracy", "f1")
CLEAN = "clean"
FUSIONS = ("fusion", "fusion, trained top")  # names of models that are made of the others

# (N, K) probabilities by model and by what was done to the images
Answers = dict[tuple[str, str], Tensor]


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A model under a condition. metrics: in percent, mean over seeds; gain: of balanced accuracy
    over the mean of the single models under the same condition, in points, None for those."""

    model: str
    condition: str
    metrics: Mapping[str, Estimate]
    gain: Estimate | None


def predict_attacked(
    experiment: Experiment, models: Mapping[str, Classifier], rows: Tensor
) -> Answers:
    """Predictions of each model on the test images in these rows of the data set, clean and after
    the experiment's attack on that model."""
    test, size = experiment.samples(rows), experiment.evaluation.batch_size
    attack, g = experiment.evasion.attack, experiment.generator("meff", "evasion")
    bounds = experiment.evaluation.evasion_evaluation.eps_255
    out: Answers = {}
    for name, model in models.items():
        out[name, CLEAN] = predict(model, test.images, size)
        if attack is None:
            continue
        for eps in bounds if experiment.evasion.bounded else (0.0,):
            label = (
                f"{experiment.evasion.name} {eps:g}/255"
                if experiment.evasion.bounded
                else experiment.evasion.name
            )
            images = evasion.attack_images(
                attack, model, test.images, test.labels, eps=eps / 255, generator=g, batch_size=size
            )
            out[name, label] = predict(model, images, size)
    return out


def summarise_scores(
    experiment: Experiment, rows: Tensor, found: Sequence[Answers]
) -> list[ScoreRow]:
    """One row a model and condition. found: of every seed, all on the same images. Intervals
    resample seeds and images, whole lesions or patients where they are known;
    `evaluation.bootstrap_samples=0`: none."""
    measured = _replicates(experiment, rows, found)
    counts = sample_seeds(
        len(found), experiment.evaluation.bootstrap_samples, generator(0, "meff", "seeds")
    )
    place = METRICS.index("balanced_accuracy")
    out = []
    for (model, condition), one in measured.items():
        metrics = {
            metric: _estimate(one[number], counts, SHARE) for number, metric in enumerate(METRICS)
        }
        single = [
            other[place]
            for (name, what), other in measured.items()
            if what == condition and name not in FUSIONS
        ]
        mean = Replicates(
            torch.stack([other.values for other in single]).mean(0),
            torch.stack([other.draws for other in single]).mean(0),
        )
        out.append(
            ScoreRow(
                model,
                condition,
                metrics,
                _estimate(one[place] - mean, counts) if model in FUSIONS else None,
            )
        )
    return out


def _replicates(
    experiment: Experiment, rows: Tensor, found: Sequence[Answers]
) -> dict[tuple[str, str], Replicates]:
    """(METRICS, S) values and (METRICS, S, B) draws of every model and condition, those of all
    seeds by the same images."""
    labels, groups, draws = (
        experiment.dataset.labels[rows],
        experiment.dataset.groups[rows],
        experiment.evaluation.bootstrap_samples,
    )
    keys = list(found[0])
    pairs = [(labels, one[key].argmax(dim=1)) for key in keys for one in found]
    resampled = (
        resampled_metrics(
            pairs, experiment.num_classes, groups, draws, generator(0, "meff", "images")
        )
        if draws
        else None
    )
    out = {}
    for place, key in enumerate(keys):
        exact = [classification_metrics(one[key], labels) for one in found]
        values = torch.tensor(
            [[number_or_nan(one[metric]) for one in exact] for metric in METRICS],
            dtype=torch.float64,
        )
        replicates = values[..., None][..., :0]
        if resampled is not None:
            own = resampled[place * len(found) : (place + 1) * len(found)]
            replicates = torch.stack(
                [torch.stack([one[metric] for one in own]) for metric in METRICS]
            )
        out[key] = Replicates(values, replicates)
    return out


def _estimate(one: Replicates, counts_SB: Tensor, within: Interval = NO_BOUNDS) -> Estimate:
    return estimate(*mean_over_seeds(one, counts_SB), within)


def scores_table(found: Sequence[ScoreRow]) -> Table:
    """All rows, values in percent; intervals of the balanced accuracy and of what fusing gains of
    it."""
    columns = ("Model", "Images", "Accuracy", "Balanced", "F1", "Gain, points")
    out = new_table("Test images, in % (95 % intervals)", columns, words=2)
    for row in found:
        accuracy, balanced, f1 = (row.metrics[metric] for metric in METRICS)
        gain = "" if row.gain is None else _text(row.gain)
        out.add_row(
            row.model,
            row.condition,
            format_number(accuracy.value),
            _text(balanced),
            format_number(f1.value),
            gain,
        )
    return out


def _text(one: Estimate) -> str:
    value = format_number(one.value)
    return (
        value
        if one.low is None
        else f"{value} ({format_number(one.low)} to {format_number(one.high)})"
    )


def to_plain_rows(found: Sequence[ScoreRow]) -> list[dict[str, Any]]:
    """JSON values of all rows (docs/meff.md)."""
    return [
        {
            "model": row.model,
            "images": row.condition,
            **{metric: _interval(one) for metric, one in row.metrics.items()},
            "gain": None if row.gain is None else _interval(row.gain),
        }
        for row in found
    ]


def _interval(one: Estimate) -> dict[str, float | None]:
    return {name: value for name, value in asdict(one).items() if name != "p"}
