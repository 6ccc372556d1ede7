"""fedrobust itself, through the server loop that `fedrobust.simulate` uses; without clean twin and
client evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks.common.observer import Silent
from benchmarks.common.work import Work, compose, probe
from fedrobust.experiment import build, factories
from fedrobust.runtime.server.loop import build_server_context, run_rounds
from fedrobust.runtime.simulation import CLIENT_APP
from fedrobust.types import RoundRecord


class Marker(Silent):
    """An observer that marks the ends of rounds and counts images."""

    def __init__(self, mark: Callable[[int], None], validation: int) -> None:
        self._mark, self._validation = mark, validation
        self.trained = self.judged = 0
        self.accuracy = 0.0

    def round_finished(self, run: str, record: RoundRecord) -> None:
        self.trained += sum(one.num_examples for one in record.clients)
        self.judged += self._validation
        self.accuracy = float(record.metrics["accuracy"] or 0.0) / 100
        self._mark(record.number)

    def rounds_restored(self, run: str, records: Sequence[RoundRecord]) -> None: ...


def configure(work: Work, engine: str, rule: str) -> list[str]:
    """The overrides that name engine and strategy."""
    workers = [f"engine.workers={work.workers}"] if engine == "ray" else []
    tolerated = [f"strategy.f={work.tolerated}"] if rule in ("multi_krum", "trimmed_mean") else []
    return [
        f"engine={engine}",
        f"engine.threads={work.threads}",
        *workers,
        f"strategy={rule}",
        *tolerated,
    ]


def run(work: Work, rule: str, mark: Callable[[int], None], engine: str) -> dict[str, float]:
    """As `plain_loop.run`."""
    if engine == "ray":
        torch.set_num_threads(work.server_threads)
    config = compose(work, *configure(work, engine, rule))
    experiment = build.build_experiment(config)
    server = build_server_context(experiment)
    marker, start = Marker(mark, len(experiment.validation())), probe(server.model)
    with factories.build_group(config, "engine").open(
        CLIENT_APP, experiment.num_clients, {"simulation": True}
    ) as grid:
        run_rounds(server, grid, marker)
    moved = probe(server.model) - start  # the server's model was evaluated last
    return {
        "trained": marker.trained,
        "judged": marker.judged,
        "moved": float(moved.norm()),
        "accuracy": marker.accuracy,
    }
