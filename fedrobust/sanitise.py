"""Sanitising a pooled set: `python -m fedrobust.sanitise <output folder of a run>`.

The training images of all hospitals of a finished run, contaminated as they were, are put into one pool; the run's final model embeds
them, and every defence says what it would drop. Exit codes: 0 done, 1 failed, 2 wrong input.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fedrobust import config as settings
from fedrobust import experiment
from fedrobust.cli import explain
from fedrobust.data import TRAIN
from fedrobust.errors import ConfigError, FedrobustError
from fedrobust.manifest import MANIFEST
from fedrobust.sanitising import Sanitiser, sift
from fedrobust.sanitising.detection import Detection, altered, wilson
from fedrobust.sanitising.filtering import embed
from fedrobust.sanitising.slab import slab
from fedrobust.sanitising.sphere import sphere
from fedrobust.wording import decimal
from strategies.rounds import make_server


@dataclass(frozen=True)
class Pool:
    """features (N, d), labels and altered (N,) of all hospitals' training images; anchors (d, K), or None for a linear head."""

    features_Nd: Tensor
    labels_N: Tensor
    altered_N: Tensor
    anchors_dK: Tensor | None


@dataclass(frozen=True)
class Row:
    """What one defence would do to the pool; auroc: of its scores, in percent, None where all or none were altered."""

    name: str
    anchors: str
    detection: Detection
    auroc: float | None


def pool(folder: Path) -> Pool:
    """The pool of a finished run. Raises ConfigError where the folder is none, or its data or model cannot be had."""
    model = folder / "model.safetensors"
    try:
        config: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder}: holds no readable {MANIFEST}; give the output folder of a finished run") from error
    if not model.exists():
        raise ConfigError(f"{folder}: holds no {model.name}; give the output folder of a finished run")
    study = experiment.from_text(settings.to_json(config))
    study = replace(study, model=replace(study.model.untrained(), checkpoint=str(model)))
    network = make_server(study).model
    features, labels, changed = [], [], []
    for client in range(study.num_clients):
        now, clean = study.shard(client).train, study.samples(study.rows(client, TRAIN))
        features.append(embed(network, now.images))
        labels.append(now.labels)
        changed.append(altered(clean, now, triggered=study.contamination(client).backdoor is not None))
    return Pool(torch.cat(features), torch.cat(labels), torch.cat(changed), network.anchors)


def defences(quantile: float, threshold: float, *, etf: bool) -> list[Sanitiser]:
    """Sphere and slab around centroids and, with an ETF head, around the fixed anchors. Raises ConfigError."""
    where = ("centroid", "etf") if etf else ("centroid",)
    return [factory(anchors=one, quantile=quantile, threshold=threshold) for one in where for factory in (sphere, slab)]


def judge(found: Pool, sanitiser: Sanitiser) -> Row:
    """Precision, recall and AUROC of one defence on the pool."""
    sifted = sift(sanitiser, found.features_Nd, found.labels_N, found.anchors_dK)
    dropped_N, bad_N = ~sifted.kept_N, found.altered_N
    detection = Detection(len(bad_N), int(dropped_N.sum()), int(bad_N.sum()), int((dropped_N & bad_N).sum()))
    both = 0 < detection.altered < detection.images
    auroc = 100 * float(roc_auc_score(bad_N.numpy(), sifted.scores_N.numpy())) if both else None
    return Row(sanitiser.name, sanitiser.anchors, detection, auroc)


def table(rows: list[Row], title: str) -> Table:
    """One row a defence, all shares in percent with their Wilson intervals, which count images as independent."""
    out = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for place, name in enumerate(("Defence", "dropped", "found", "precision (95 %)", "recall (95 %)", "AUROC")):
        out.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        one = row.detection
        precision, recall = _share(one.precision, one.found, one.dropped), _share(one.recall, one.found, one.altered)
        out.add_row(f"{row.name} {row.anchors}", str(one.dropped), str(one.found), precision, recall, decimal(row.auroc))
    return out


def _share(value: float | None, hits: int, total: int) -> str:
    interval = wilson(hits, total)
    return decimal(value) if interval is None else f"{decimal(value)} ({interval[0]:.0f} to {interval[1]:.0f})"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fedrobust.sanitise", description="What the sphere and slab defences would drop.")
    parser.add_argument("folder", type=Path, help="output folder of a finished run")
    parser.add_argument("--quantile", type=float, default=0.2, help="share of every class that is dropped (default 0.2)")
    parser.add_argument("--threshold", type=float, default=0.0, help="scores up to here are kept all the same (default 0)")
    given = parser.parse_args()
    try:
        defences(given.quantile, given.threshold, etf=True)  # wrong settings are refused before anything is loaded
        found = pool(given.folder)
        rows = [judge(found, one) for one in defences(given.quantile, given.threshold, etf=found.anchors_dK is not None)]
    except FedrobustError as error:
        line, code = explain(error)
        print(f"error: {str(line).replace('sanitiser.', '--')}", file=sys.stderr)
        sys.exit(code)
    bad = int(found.altered_N.sum())
    Console().print(table(rows, f"{len(found.labels_N)} training images, {bad} altered ({100 * bad / max(len(found.labels_N), 1):.1f} %)"))


if __name__ == "__main__":
    main()
