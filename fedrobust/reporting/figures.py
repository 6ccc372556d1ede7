"""The pictures of an output folder, by file name."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fedrobust.data import TRAIN, tensor_cache
from fedrobust.data.partition import class_table
from fedrobust.experiment.experiment import Experiment
from fedrobust.reporting.plots.confusion import plot_confusion
from fedrobust.reporting.plots.curves import plot_influence, plot_validation
from fedrobust.reporting.plots.drops import plot_drops
from fedrobust.reporting.plots.partition import plot_partition
from fedrobust.reporting.plots.samples import plot_samples
from fedrobust.reporting.plots.style import client_text, undrawn_note
from fedrobust.reporting.report import Report
from fedrobust.types import TWIN, RoundRecord, Samples
from fedrobust.utils.images import as_bytes
from fedrobust.utils.program import program_digest
from fedrobust.utils.seeding import generator

SHOWN = 8  # images in a line of samples.png


def draw_data(experiment: Experiment, folder: Path) -> str:
    """partition.png (clients x classes; not of real sites) and samples.png (clean and contaminated
    images), before anything is trained. Returns a line on names that cannot be drawn, or ""."""
    names = list(experiment.dataset.class_names)
    if not experiment.remote:
        plot_partition(
            class_table(experiment.dataset, experiment.parts),
            names,
            list(experiment.roles),
            folder / "partition.png",
            experiment.all_sites(),
        )
    plot_samples(_sample_rows(experiment), names, folder / "samples.png")
    return undrawn_note([*names, *itertools.chain.from_iterable(experiment.all_sites())])


def _sample_rows(experiment: Experiment) -> list[tuple[str, Samples, Samples]]:
    """Two clients of each contaminated kind (one clean client where there is none), then the
    corrupted test images."""
    chosen = [
        client for kind in ("poisoned", "noisy") for client in experiment.clients_of_kind(kind)[:2]
    ] or [0]
    chosen = [] if experiment.remote else chosen
    titles = []
    for client in chosen:
        name = client_text(client, experiment.sites_of(client))
        titles.append(
            f"{experiment.roles[client]} client {name}: {experiment.contamination(client).name}"
        )
    titles.append(f"test images: {experiment.corruption.name}")
    pairs = _kept_pairs if experiment.model.learns_from_features else _sample_pairs
    return [(title, *pair) for title, pair in zip(titles, pairs(experiment, chosen), strict=True)]


def _sample_pairs(experiment: Experiment, chosen: Sequence[int]) -> list[tuple[Samples, Samples]]:
    """Training images of the chosen clients, clean and contaminated, then test images, clean and
    corrupted."""
    pairs = [
        _few(experiment.samples(experiment.rows(client, TRAIN)), experiment.shard(client).train)
        for client in chosen
    ]
    test = experiment.samples(experiment.test_rows())
    return [*pairs, _few(test, experiment.corrupt(test))]


def _kept_pairs(experiment: Experiment, chosen: Sequence[int]) -> list[tuple[Samples, Samples]]:
    """The same beside the features, so that a second run alters no image for its pictures
    either."""
    settings = experiment.settings
    kinds = [experiment.roles[client] for client in chosen]
    rows = torch.cat([*(experiment.parts[client] for client in chosen), experiment.test_rows()])
    content = {
        "pictures": [list(chosen), kinds],
        "ranks": [experiment.roles[:client].count(experiment.roles[client]) for client in chosen],
        "rows": hashlib.sha256(rows.contiguous().numpy().tobytes()).hexdigest(),
        "data": experiment.dataset.digest,
        "classes": list(experiment.dataset.class_names),
        "seed": experiment.seed,
        "groups": [
            dict(group.written)
            for group in (settings.contamination, settings.noise, settings.corruption)
        ],
        "program": program_digest(),
    }

    def make() -> dict[str, Tensor]:
        return {
            f"{place}.{key}": getattr(samples, key).contiguous()
            for place, samples in enumerate(itertools.chain(*_sample_pairs(experiment, chosen)))
            for key in ("images", "labels")
        }

    kept = tensor_cache.tensors(content, make)
    sides = [
        Samples(kept[f"{place}.images"], kept[f"{place}.labels"]) for place in range(len(kept) // 2)
    ]
    return list(zip(sides[::2], sides[1::2], strict=True))


def _few(clean: Samples, contaminated: Samples) -> tuple[Samples, Samples]:
    """At most SHOWN pairs, spread over the samples, those that changed first."""
    changed = clean.labels != contaminated.labels
    if contaminated.images is not clean.images:
        changed |= (as_bytes(clean.images) != as_bytes(contaminated.images)).flatten(1).any(dim=1)
    spread = torch.randperm(len(clean), generator=generator(0, "samples"))
    index = spread[changed[spread].logical_not().to(torch.int8).argsort(stable=True)][:SHOWN]
    return clean.take(index), contaminated.take(index)


def draw_results(
    experiment: Experiment,
    report: Report,
    test: Mapping[str, Tensor],
    rounds: Mapping[str, Sequence[RoundRecord]],
    folder: Path,
) -> None:
    """curves.png, influence.png, drops.png and confusion.png. test: probabilities (N, K) by
    evaluation name; rounds: by run."""
    plot_validation(rounds["run"], rounds[TWIN], folder / "curves.png")
    roles, sites = list(experiment.roles), experiment.all_sites()
    plot_influence(rounds["run"], roles, folder / "influence.png", sites)
    plot_drops(report.drops, folder / "drops.png")
    labels = experiment.dataset.labels[experiment.test_rows()]
    tables = {name: _confusion(labels, part) for name, part in test.items()}
    plot_confusion(
        tables.get("twin_clean"),
        tables["clean"],
        list(experiment.dataset.class_names),
        folder / "confusion.png",
    )


def _confusion(labels: Tensor, probabilities: Tensor) -> Tensor:
    """(K, K) counts: rows true, columns predicted."""
    classes = probabilities.shape[1]
    return torch.bincount(
        labels * classes + probabilities.argmax(dim=1), minlength=classes**2
    ).reshape(classes, classes)
