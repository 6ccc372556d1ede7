"""Everything that can be refused is refused before the first cell runs: every cell's configuration
is built once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from fedrobust.errors import ConfigError, DataError
from fedrobust.experiment import build, factories, settings
from fedrobust.experiment.experiment import Experiment
from fedrobust.runtime.server import clean_twin
from fedrobust.runtime.server.loop import build_server_context
from fedrobust.studies.comparison.grid import Cell


@dataclass(frozen=True, slots=True)
class CheckedGrid:
    """Facts of the cells, found while building them. families: {cell folder: a name shared by the
    cells that have one clean twin}; uses: {rule: of "root" and "proxy", what it used}; num_clients:
    of every cell."""

    families: Mapping[str, str]
    uses: Mapping[str, frozenset[str]]
    num_clients: Mapping[str, int]


def check_cells(
    cells: Iterable[Cell], threads: int, on_progress: Callable[[], None] = lambda: None
) -> CheckedGrid:
    """Build every cell's experiment and, once for each kind of it, the model. `on_progress`
    is called after each cell.

    Raises ConfigError or DataError with the cell in front.
    """
    families: dict[str, str] = {}
    uses: dict[str, frozenset[str]] = {}
    clients: dict[str, int] = {}
    models: set[str] = set()
    first: Experiment | None = None
    for cell in cells:
        try:
            experiment = _build(cell, models)
            if first is not None:
                _same_images(first, experiment)
        except (ConfigError, DataError) as error:
            raise type(error)(f"{cell}: {error}") from error
        first = first or experiment
        families[cell.folder] = clean_twin.twin_key(
            settings.without_contamination(cell.config),
            experiment.dataset.digest,
            experiment.settings.device,
            (threads, threads),
        )
        uses[cell.strategy] = experiment.strategy.uses
        clients[cell.folder] = experiment.num_clients
        on_progress()
    return CheckedGrid(families, uses, clients)


def _build(cell: Cell, models: set[str]) -> Experiment:
    """models: the kinds that were tried before."""
    experiment = build.build_experiment(cell.config)
    factories.build_group(cell.config, "engine")
    if not experiment.evaluation.twin:
        raise ConfigError(
            "evaluation.twin=false: drops are measured against the clean twin; leave it true"
        )
    kind = settings.to_json(
        {"model": experiment.settings.model.written, "data": experiment.settings.data.written}
    )
    if kind not in models:
        build_server_context(build.build_experiment({**cell.config, "device": "cpu"}))
        models.add(kind)
    return experiment


def _same_images(one: Experiment, other: Experiment) -> None:
    """Differences are taken image by image."""
    if one.dataset is other.dataset:
        return
    rows, others = one.test_rows(), other.test_rows()
    same = len(rows) == len(others) and one.dataset.class_names == other.dataset.class_names
    for name in ("labels", "groups"):
        same = same and torch.equal(
            getattr(one.dataset, name)[rows], getattr(other.dataset, name)[others]
        )
    if not same:
        raise ConfigError(
            "its test images are not those of the other cells, so nothing can be "
            "compared; leave data alone in the lists"
        )
