"""A whole run over a given Grid: rounds, clean twin, verdicts; the model and report.json in the output folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from fedrobust.contamination.apply import triggered
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.settings import clients_per_round
from fedrobust.learning.model_files import save_state
from fedrobust.reporting.predictions import write_predictions
from fedrobust.reporting.report import write_report
from fedrobust.reporting.results import Scores, judge
from fedrobust.runtime.server.checkpointing import Keeper
from fedrobust.runtime.server.clean_twin import twin
from fedrobust.runtime.server.evasion import attacked
from fedrobust.runtime.server.loop import Finished, client_scores, probabilities, run_rounds
from fedrobust.runtime.server.rule_strategy import Grid, Server
from fedrobust.state import State
from fedrobust.types import Observer, Samples
from fedrobust.utils import devices


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - started


def conduct(
    server: Server, grid: Grid, folder: Path, observer: Observer, engine: str, *, keeper: Keeper | None = None
) -> tuple[dict[str, Any], Scores]:
    """Run the server's experiment and its clean twin, judge both, write model.safetensors, predictions.npz and report.json.

    keeper: writes checkpoints, and lets a run that was stopped go on after its last one. Returns the report and the scores it was
    made from.
    """
    study, clock = server.experiment, Clock()
    with clock.stage("run"):
        finished = run_rounds(server, grid, observer, keeper=keeper)
    clock.seconds["run"] += finished.earlier
    notes = {"class_names": "|".join(study.dataset.class_names)}
    save_state(folder / "model.safetensors", server.layout, finished.state, server.model.anchors, notes)
    evasion: dict[str, Any] = {}
    if study.evasion.attack is not None:  # before the twin, while the clients' models are still there
        with clock.stage("evasion"):
            evasion = attacked(server, finished, observer)
    clean = None
    if study.evaluation.twin:
        with clock.stage("twin"):
            clean = twin(study, finished, grid, observer, keeper)
        clock.seconds["twin"] += 0.0 if clean is finished else clean.earlier
    with clock.stage("judge"):
        scores = _scores(server, finished, None if clean is None else clean.state, grid, observer)
        verdict = judge(study, scores, finished.records)
    rows = study.test_rows()
    write_predictions(folder, study.dataset.labels[rows], study.dataset.groups[rows], scores.test)
    report = {**_facts(study, engine), **_privacy(study, finished), **verdict, **evasion, "timing": {**clock.seconds, **_stages(finished)}}
    write_report(folder, report)
    return report, scores


def _scores(server: Server, finished: Finished, twin_state: State | None, grid: Grid, observer: Observer) -> Scores:
    study = server.experiment
    clients = client_scores(server, finished.state, grid, observer)
    observer.stage("run", "evaluate the test images")
    clean = study.samples(study.test_rows())
    conditions: Mapping[str, Samples] = {"clean": clean, "corrupted": study.corrupted(clean)}
    test = {name: probabilities(server, finished.state, samples) for name, samples in conditions.items()}
    test |= {grade: probabilities(server, finished.state, study.corrupted(clean, grade)) for grade in study.grades}
    if study.purifies:
        behind = {name: study.purifying("global", name) for name in conditions}
        test |= {f"purified_{name}": probabilities(server, finished.state, x, behind[name]) for name, x in conditions.items()}
    if twin_state is not None:
        test |= {f"twin_{name}": probabilities(server, twin_state, samples) for name, samples in conditions.items()}
    backdoor = study.backdoor
    marked = None if backdoor is None else probabilities(server, finished.state, triggered(clean, backdoor))
    return Scores(test, clients, marked)


def _facts(study: Experiment, engine: str) -> dict[str, Any]:
    return {
        "schema": 1,
        "strategy": study.strategy.name,
        "num_clients": study.num_clients,
        "poisoned": study.clients_of_kind("poisoned"),
        "noisy": study.clients_of_kind("noisy"),
        "seed": study.seed,
        "rounds": study.config["rounds"],
        "engine": engine,
        "device": devices.name(devices.resolve(study.config["device"])),
    }


def _privacy(study: Experiment, finished: Finished) -> dict[str, Any]:
    facts = study.privacy.facts(study.replies(study.config["rounds"]))
    if facts is None:
        return {}
    if not study.privacy.secure:
        return {"privacy": facts}
    asked = clients_per_round(study.config)
    dropped = sum(one.counts for record in finished.records for one in record.failures)
    return {"privacy": {**facts, "threshold": study.privacy.least(asked), "participants": asked, "dropped": dropped}}


def _stages(finished: Finished) -> dict[str, float]:
    """Seconds of the run's rounds by stage, summed."""
    total: dict[str, float] = {}
    for record in finished.records:
        for stage, seconds in record.seconds.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total
