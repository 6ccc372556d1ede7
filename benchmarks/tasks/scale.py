"""One run with many clients of a few images each, in this process: marks when round 1 begins and
after every round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import process_time
from typing import Any

from benchmarks.common.observer import Silent
from fedrobust.experiment import build, compose, factories
from fedrobust.runtime.server.loop import build_server_context, run_rounds
from fedrobust.runtime.simulation import CLIENT_APP
from fedrobust.types import RoundRecord


class Marker(Silent):
    """An observer that marks the start of round 1 (as 0) and the ends of the rounds, and keeps
    their seconds by stage, on the wall ("train") and of the processor ("cpu_train")."""

    def __init__(self, mark: Callable[[int], None]) -> None:
        self._mark = mark
        self._cpu: dict[str, float] = {}
        self._stage, self._since = "", 0.0
        self.rounds: list[dict[str, float]] = []

    def stage(self, run: str, text: str) -> None:
        now = process_time()
        if self._stage:
            self._cpu[f"cpu_{self._stage}"] = now - self._since
        self._stage, self._since = text, now

    def round_started(self, run: str, number: int) -> None:
        if number == 1:
            self._mark(0)

    def round_finished(self, run: str, record: RoundRecord) -> None:
        self.stage(run, "")
        if record.number >= 1:
            self.rounds.append({**record.seconds, **self._cpu, "clients": len(record.clients)})
            self._mark(record.number)


def configure(given: Mapping[str, Any]) -> list[str]:
    """The overrides: fedrobust's defaults (ETF, Rect, recalibrated statistics) on those images."""
    sampled = [] if given["per_round"] is None else [f"clients_per_round={given['per_round']}"]
    scratch = [] if given["scratch"] is None else [f"server.scratch_dir={given['scratch']}"]
    return [
        "data=npz",
        f"data.path={given['archive']}",
        f"data.size={given['size']}",
        "partition=iid",
        f"model={given['model']}",
        f"strategy={given['strategy']}",
        "engine=inline",
        f"engine.threads={given['threads']}",
        "device=cpu",
        f"num_clients={given['clients']}",
        f"rounds={given['rounds']}",
        *sampled,
        *scratch,
        f"server.root_per_class={given['root']}",
        f"server.proxy_images={given['proxy']}",
        "evaluation.twin=false",
        "evaluation.bootstrap_samples=0",
        "evaluation.validation_images=128",
    ]


def run(given: Mapping[str, Any], mark: Callable[[int], None]) -> dict[str, Any]:
    """given: archive, size, root, proxy, clients, per_round, model, strategy, rounds, threads,
    scratch."""
    config = compose.compose(*configure(given))
    experiment = build.build_experiment(config)
    server = build_server_context(experiment)
    marker = Marker(mark)
    with factories.build_group(config, "engine").open(
        CLIENT_APP, experiment.num_clients, {"simulation": True}
    ) as grid:
        run_rounds(server, grid, marker)
    return {"rounds": marker.rounds, "parameters": server.layout.num_parameters}
