"""Sphere and slab defences on the pooled training images of finished runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.table import Table
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fedrobust.data import TRAIN
from fedrobust.defences.sanitisation import Sanitiser, sanitise
from fedrobust.defences.sanitisation.detection import Detection, altered_rows
from fedrobust.defences.sanitisation.slab import slab
from fedrobust.defences.sanitisation.sphere import sphere
from fedrobust.errors import ConfigError
from fedrobust.evaluation.statistics import (
    Estimate,
    Replicates,
    estimate,
    mean_over_seeds,
    number_or_nan,
    sample_seeds,
    wilson_interval,
)
from fedrobust.experiment import build
from fedrobust.experiment.own_choices import check_plugins
from fedrobust.learning.inference import embed
from fedrobust.reporting.console import ResultConsole
from fedrobust.reporting.console.tables import new_table
from fedrobust.reporting.filenames import MANIFEST
from fedrobust.reporting.text import format_number
from fedrobust.runtime.server.loop import build_server_context
from fedrobust.utils.counting import format_count
from fedrobust.utils.seeding import generator

DRAWS = 2000  # bootstrap replicates over runs and images


@dataclass(frozen=True)
class PooledFeatures:
    """features (N, d), labels and altered (N,) of all hospitals' training images; anchors (d, K),
    or None for a linear head."""

    features_Nd: Tensor
    labels_N: Tensor
    altered_N: Tensor
    anchors_dK: Tensor | None


@dataclass(frozen=True)
class DefenceRow:
    """Effect of one defence on the pool of each run; aurocs: of its scores, in percent, None
    where all or none were altered."""

    name: str
    anchors: str
    detections: tuple[Detection, ...]
    aurocs: tuple[float | None, ...]


def compare_defences(
    folders: Sequence[Path], quantile: float, threshold: float, plugins: Sequence[str] = ()
) -> None:
    """Print what each defence would drop of the pools of finished runs.

    Args:
        folders: their output folders.
        quantile: share of every class that is dropped, from 0 to 1.
        threshold: scores up to here are kept all the same.
        plugins: the user's own packages that the runs need.

    Raises:
        ConfigError: a setting is out of its range, before anything is loaded; or as `read_pool`.
    """
    defences(quantile, threshold, etf=True)
    pools = [read_pool(folder, plugins) for folder in folders]
    etf = all(one.anchors_dK is not None for one in pools)
    rows = [evaluate_defence(pools, one) for one in defences(quantile, threshold, etf=etf)]
    images = sum(len(one.labels_N) for one in pools)
    altered = sum(int(one.altered_N.sum()) for one in pools)
    runs = f" in {format_count(len(pools), 'run')}" if len(pools) > 1 else ""
    share = f"{altered} altered ({100 * altered / max(images, 1):.1f} %)"
    title = f"{format_count(images, 'training image')}{runs}, {share}"
    ResultConsole().print(defences_table(rows, title))


def read_pool(folder: Path, plugins: Sequence[str] = ()) -> PooledFeatures:
    """The pool of a finished run. plugins: the user's own packages that it may need. Raises
    ConfigError where the folder is none, or its data, model or plug-ins cannot be had."""
    model = folder / "model.safetensors"
    try:
        config: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))[
            "config"
        ]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder}: holds no readable {MANIFEST}; give the output folder of a finished run"
        ) from error
    if not model.exists():
        raise ConfigError(
            f"{folder}: holds no {model.name}; give the output folder of a finished run"
        )
    check_plugins(config, plugins, folder / MANIFEST)
    experiment = build.build_experiment(config)
    experiment = replace(
        experiment, model=replace(experiment.model.untrained(), checkpoint=str(model))
    )
    network = build_server_context(experiment).model
    features, labels, changed = [], [], []
    for client in range(experiment.num_clients):
        now, clean = (
            experiment.shard(client).train,
            experiment.samples(experiment.rows(client, TRAIN)),
        )
        features.append(embed(network, now.images))
        labels.append(now.labels)
        changed.append(
            altered_rows(
                clean, now, triggered=experiment.contamination(client).backdoor is not None
            )
        )
    return PooledFeatures(
        torch.cat(features), torch.cat(labels), torch.cat(changed), network.anchors
    )


def defences(quantile: float, threshold: float, *, etf: bool) -> list[Sanitiser]:
    """Sphere and slab around centroids and, with an ETF head, around the fixed anchors. Raises
    ConfigError."""
    where = ("centroid", "etf") if etf else ("centroid",)
    return [
        factory(anchors=one, quantile=quantile, threshold=threshold)
        for one in where
        for factory in (sphere, slab)
    ]


def evaluate_defence(pools: Sequence[PooledFeatures], sanitiser: Sanitiser) -> DefenceRow:
    """Precision, recall and AUROC of one defence on each pool."""
    detections, aurocs = [], []
    for found in pools:
        sifted = sanitise(sanitiser, found.features_Nd, found.labels_N, found.anchors_dK)
        dropped_N, bad_N = ~sifted.kept_N, found.altered_N
        detections.append(
            Detection(
                len(bad_N), int(dropped_N.sum()), int(bad_N.sum()), int((dropped_N & bad_N).sum())
            )
        )
        both = 0 < detections[-1].altered < detections[-1].images
        aurocs.append(
            100 * float(roc_auc_score(bad_N.numpy(), sifted.scores_N.numpy())) if both else None
        )
    return DefenceRow(sanitiser.name, sanitiser.anchors, tuple(detections), tuple(aurocs))


def detection_shares(detections: Sequence[Detection]) -> tuple[Estimate, Estimate]:
    """Precision and recall with 95 % intervals: of one run by Wilson's formula; of several their
    mean, runs and in each of them images resampled (a run in which a share is undefined is left out
    of it). Images count as independent."""
    if len(detections) == 1:
        one = detections[0]
        pairs = (
            (one.precision, wilson_interval(one.found, one.dropped)),
            (one.recall, wilson_interval(one.found, one.altered)),
        )
        precision, recall = (
            Estimate(value, *(interval or (None, None))) for value, interval in pairs
        )
        return precision, recall
    random = np.random.default_rng(0)
    values, replicates = [], []
    for one in detections:
        kinds = [one.found, one.dropped - one.found, one.altered - one.found]
        chances = np.array([*kinds, one.images - sum(kinds)]) / one.images
        found, wrong, missed, _ = torch.from_numpy(
            random.multinomial(one.images, chances, size=DRAWS).T
        ).double()
        values.append([number_or_nan(share) for share in (one.precision, one.recall)])
        replicates.append(
            torch.stack([100 * found / (found + wrong), 100 * found / (found + missed)])
        )
    measured = Replicates(
        torch.tensor(values, dtype=torch.float64).T, torch.stack(replicates, dim=1)
    )
    means, over = mean_over_seeds(
        measured, sample_seeds(len(detections), DRAWS, generator(0, "sanitising", "runs"))
    )
    return estimate(means[0], over[0]), estimate(means[1], over[1])


def defences_table(rows: Sequence[DefenceRow], title: str) -> Table:
    """One row a defence, all shares in percent with their intervals; of several runs the images of
    all."""
    columns = ("Defence", "dropped", "found", "precision (95 %)", "recall (95 %)", "AUROC")
    out = new_table(title, columns)
    for row in rows:
        precision, recall = detection_shares(row.detections)
        dropped, found = (
            str(sum(one))
            for one in zip(*((one.dropped, one.found) for one in row.detections), strict=True)
        )
        known = [one for one in row.aurocs if one is not None]
        auroc = format_number(fmean(known) if known else None)
        out.add_row(
            f"{row.name} {row.anchors}", dropped, found, _text(precision), _text(recall), auroc
        )
    return out


def _text(one: Estimate) -> str:
    return (
        format_number(one.value)
        if one.low is None
        else f"{format_number(one.value)} ({one.low:.0f} to {one.high:.0f})"
    )
