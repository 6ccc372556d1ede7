"""Three hospitals on this machine: real processes, TLS, registered keys, each with its own file of
images."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrobust.data import TEST, TRAIN, VALIDATION, Dataset, DataSource
from fedrobust.errors import ConfigError, FedrobustError
from fedrobust.experiment import build, compose, factories
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.overrides import quote_value, words_not_given
from fedrobust.federation.flower_commands import Scalar, pack_words
from fedrobust.federation.local_federation import LocalFederation
from fedrobust.federation.server_run import compose_for_sites
from fedrobust.learning.classifier import ModelFactory
from fedrobust.learning.packaged_weights import PACKAGED
from fedrobust.runtime.client.own_weights import BY_PACKAGE, WEIGHTS
from fedrobust.runtime.client.site_config import join_classes
from fedrobust.runtime.server.loop import build_server_context
from fedrobust.utils.counting import format_count
from fedrobust.utils.seeding import generator

PARTS = {"train": TRAIN, "val": VALIDATION, "test": TEST}
SERVER_SHARE = 0.15  # of the patients or lesions: the consortium's own reference images
LEAST = 4  # of them of every class and split, where there are as many again for the hospitals
SITES = 3
WORDS = (
    "model=small",
    "client.optimizer.lr=3.0e-3",
    "rounds=2",
    "server.root_per_class=2",
    "server.proxy_images=64",
)


def demo(
    folder: Path, words: Sequence[str], data: Sequence[str], seconds: float, *, quiet: bool = False
) -> Path:
    """Run the words' configuration on three local sites and return the output folder.

    data: Hydra words that choose the data set, e.g. data=ham10000 data.root=...; the three sites
    with most images become hospitals, the rest is the server's. quiet: show nothing of it. Raises
    RunError where the run fails, ConfigError for a folder that holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"folder={folder}: already holds files; choose another one, nothing was written over"
        )
    folder = folder.absolute()
    dataset = _load(data)
    names = share_out(dataset, folder / "data")
    nodes: dict[str, dict[str, Scalar]] = {
        name: {
            "site": name,
            "data-root": str(folder / "data" / f"{name}.npz"),
            "data-format": "npz",
            "data-classes": join_classes(dataset.class_names),
            "data-sizes": dataset.images.shape[-1],
            # nobody's secret: the images are drawn, or public
            "share-predictions": True,
        }
        for name in names
    }
    size = dataset.images.shape[-1]
    own = [
        "data=npz",
        f"data.path={quote_value(str(folder / 'data' / 'server.npz'))}",
        f"data.size={size}",
        f"data.classes=[{','.join(map(quote_value, dataset.class_names))}]",
    ]
    overrides = [*own, f"num_clients={SITES}", *words_not_given(WORDS, words), *words]
    try:
        experiment = _check_run(overrides)
    except FedrobustError:  # nothing was started yet, and nothing is left behind
        shutil.rmtree(folder / "data")
        if not any(folder.iterdir()):
            folder.rmdir()
        raise
    if weights := _own_weights(experiment.model):
        nodes = {name: {**node, WEIGHTS: weights} for name, node in nodes.items()}
    if not quiet:
        print(
            f"three sites: {', '.join(names)}; starting the server and three nodes (10 to "
            f"40 s); logs: {folder / 'logs'}",
            flush=True,
        )
    with LocalFederation(folder, nodes) as federation:
        run = federation.operator.submit(overrides, folder=str(folder / "run"))
        federation.operator.follow(run, seconds, quiet=quiet)
    return folder / "run"


def _own_weights(model: ModelFactory) -> str:
    """What every site's node configuration names for a run that freezes pretrained weights; empty
    where none are needed."""
    if model.freeze == "none":
        return ""
    if model.checkpoint is not None:
        return str(Path(model.checkpoint).absolute())
    return BY_PACKAGE if model.pretrained and model.name in PACKAGED else ""


def _check_run(overrides: Sequence[str]) -> Experiment:
    """The experiment, checked for what the server and the sites would refuse before their processes
    take minutes to start. Raises ConfigError or DataError."""
    experiment = build.build_experiment(compose_for_sites(pack_words(overrides), ()))
    if set(experiment.roles) != {"clean"}:
        raise ConfigError("poisoned, noisy: the sites refuse contamination; leave both at 0")
    build_server_context(experiment)
    return experiment


def _load(words: Sequence[str]) -> Dataset:
    source: DataSource = factories.build_group(compose.compose(*words), "data")
    return source.load()


def share_out(dataset: Dataset, folder: Path) -> list[str]:
    """One npz file for each of the three biggest sites and one for the server, which share no
    patient or lesion; their names."""
    counts = torch.bincount(dataset.sites, minlength=len(dataset.site_names))
    if len(counts) < SITES:
        raise ConfigError(
            f"data: has {format_count(len(counts), 'site')}, the demo needs {SITES}; use "
            "data=synthetic or data=ham10000 data.root=..."
        )
    chosen = counts.argsort(descending=True)[:SITES].tolist()
    servers = _of_the_server(dataset)
    folder.mkdir(parents=True)
    for site in chosen:
        write_npz(
            folder / f"{dataset.site_names[site]}.npz", dataset, (dataset.sites == site) & ~servers
        )
    write_npz(
        folder / "server.npz", dataset, servers | ~torch.isin(dataset.sites, torch.tensor(chosen))
    )
    return [dataset.site_names[site] for site in chosen]


def _of_the_server(dataset: Dataset) -> Tensor:
    """(N,) bool: a share of the patients or lesions of every class and split."""
    servers = torch.zeros(len(dataset), dtype=torch.bool)
    kinds = 3 * dataset.labels + dataset.splits
    for kind in torch.unique(kinds).tolist():
        groups = torch.unique(dataset.groups[kinds == kind])
        order = torch.randperm(len(groups), generator=generator(0, "demo", kind))
        servers |= torch.isin(
            dataset.groups,
            groups[order[: max(round(SERVER_SHARE * len(groups)), min(LEAST, len(groups) // 2))]],
        )
    return servers


def write_npz(path: Path, dataset: Dataset, rows_N: Tensor) -> None:
    """The marked rows of a data set in their order, with MedMNIST's keys (`data=npz`)."""
    arrays: dict[str, Any] = {}
    for word, split in PARTS.items():
        part = rows_N & (dataset.splits == split)
        arrays[f"{word}_images"] = dataset.images[part].permute(0, 2, 3, 1).numpy()
        arrays[f"{word}_labels"] = dataset.labels[part].numpy()[:, None]
    np.savez(path, **arrays)
