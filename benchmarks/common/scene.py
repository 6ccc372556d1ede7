"""A finished run's final model with some of its images, and how they are attacked and evaluated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from benchmarks.common import report
from fedrobust.contamination.base import Attack
from fedrobust.data import TRAIN
from fedrobust.defences.purification.statistics import with_purified_statistics
from fedrobust.evaluation.drops import resampled_metrics
from fedrobust.experiment import build
from fedrobust.experiment.experiment import Experiment
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.inference import predict
from fedrobust.learning.model_files import load_state
from fedrobust.runtime.server.loop import build_server_context
from fedrobust.state import load
from fedrobust.types import Purifier, Samples
from fedrobust.utils.images import as_unit


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """A run's final model with some of its images, and how they are evaluated. estimation: images
    for BatchNorm statistics behind purifiers, none at all where the model keeps its own."""

    experiment: Experiment
    model: Classifier
    samples: Samples
    groups: Tensor
    batch: int
    estimation: Tensor

    def generator(self, *purpose: str | int) -> Generator:
        return self.experiment.generator("benchmark", *purpose)

    def batches(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        device = next(self.model.parameters()).device
        pairs = zip(
            torch.split(images, self.batch),
            torch.split(self.samples.labels, self.batch),
            strict=True,
        )
        return ((as_unit(x.to(device)), y.to(device)) for x, y in pairs)

    def with_purifier(self, purifier: Purifier) -> EvaluatedModel:
        """The same with the model as it stands behind a purifier."""
        if not len(self.estimation):
            return self
        return replace(
            self,
            model=with_purified_statistics(
                self.model, purifier, self.estimation, self.generator("statistics")
            ),
        )

    def predict(self, purifier: Purifier, images: Tensor) -> Tensor:
        """(N,) classes of purified images."""
        g = self.generator("purify")
        with torch.no_grad():
            return torch.cat(
                [
                    predict(self.model, purifier.purify(x, g)).argmax(dim=1)
                    for x, _ in self.batches(images)
                ]
            )

    def attack(self, attack: Attack, eps_255: float) -> Tensor:
        """(N, C, H, W) float32 on the CPU."""
        g = self.generator("attack", f"{eps_255:g}")
        made = [
            attack(self.model, x, y, eps_255 / 255, g).cpu()
            for x, y in self.batches(self.samples.images)
        ]
        return torch.cat(made)

    def resample(self, conditions: Mapping[str, Tensor], draws: int) -> dict[str, Tensor]:
        """Balanced accuracy (1 + draws,) of each condition in percent: the measured one, then those
        of resampled lesions or images, the same in every condition."""
        labels, classes = self.samples.labels, self.experiment.num_classes
        pairs = [(labels, predicted) for predicted in conditions.values()]
        found = resampled_metrics(pairs, classes, self.groups, draws, self.generator("bootstrap"))
        exact = [balanced_accuracy(predicted, labels) for predicted in conditions.values()]
        values = [
            torch.cat([torch.tensor([one]).double(), part["balanced_accuracy"]])
            for one, part in zip(exact, found, strict=True)
        ]
        return dict(zip(conditions, values, strict=True))


def balanced_accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Mean recall of the classes that occur, in percent."""
    return 100 * float(
        torch.stack(
            [(predicted[labels == k] == k).double().mean() for k in torch.unique(labels)]
        ).mean()
    )


def open_run(folder: Path) -> tuple[Experiment, Classifier]:
    """The experiment and the final global model of a finished run's folder."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        report.refuse(
            f"{folder}: holds no manifest.json; give the output folder of a finished "
            "run of fedrobust.simulate"
        )
    experiment = build.build_experiment(manifest["config"])
    server = build_server_context(experiment)
    load(server.model, server.layout, load_state(folder / "model.safetensors", server.layout)[0])
    return experiment, server.model


def evaluated_model(
    experiment: Experiment,
    model: Classifier,
    split: int,
    images: int,
    *,
    batch: int,
    estimation: int,
) -> EvaluatedModel:
    """At most so many images of a split, drawn by the experiment's seed. estimation: training
    images for BatchNorm statistics."""
    rows = _sample(experiment, split, images)
    return EvaluatedModel(
        experiment,
        model,
        experiment.samples(rows),
        experiment.dataset.groups[rows],
        batch,
        experiment.samples(_sample(experiment, TRAIN, estimation)).images,
    )


def _sample(experiment: Experiment, split: int, images: int) -> Tensor:
    rows = (experiment.dataset.splits == split).nonzero().reshape(-1)
    order = torch.randperm(len(rows), generator=experiment.generator("benchmark", "images", split))
    return rows[order[:images]].sort().values
