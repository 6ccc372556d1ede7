"""A whole run over a given Grid: rounds, clean twin, verdicts; the model and report.json in the output folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from fedrobust import device, experiment, twins
from fedrobust.checkpoint import save_state
from fedrobust.config import clients_per_round
from fedrobust.contamination import triggered
from fedrobust.experiment import Experiment
from fedrobust.judgement import Scores, judge
from fedrobust.layout import Layout
from fedrobust.predictions import write_predictions
from fedrobust.reporting import write_report
from fedrobust.types import Observer, Samples, State
from strategies.adapter import Grid, Server
from strategies.evasion import attacked
from strategies.keeper import Keeper
from strategies.rounds import Finished, client_scores, make_server, probabilities, run_rounds

TWIN = "clean twin"


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


def twin(study: Experiment, finished: Finished, grid: Grid, observer: Observer, keeper: Keeper | None = None) -> Finished:
    """The same run without contamination: this very run where nobody is contaminated, else from the cache, else trained. A new
    one is kept in the cache, so that whatever differs in its contamination only finds it there."""
    clean = experiment.build(experiment.clean_twin(study.config))
    server = make_server(clean)
    threads = torch.get_num_threads(), getattr(grid, "threads", 0)
    name = twins.key(clean.config, clean.dataset.digest, next(server.model.parameters()).device.type, threads)
    if not (study.clients_of_kind("poisoned") or study.clients_of_kind("noisy")):
        _keep(name, server.layout, finished, observer, keeper)
        return finished
    cached = twins.load(name, server.layout)
    if cached is None:
        trained = run_rounds(server, grid, observer, TWIN, keeper)
        _keep(name, server.layout, trained, observer, keeper)
        return trained
    state, records = cached
    observer.run_started(TWIN, clean.config["rounds"], clean.num_clients)
    for record in records:
        observer.round_finished(TWIN, record)
    observer.stage(TWIN, "taken from the cache")
    return Finished(state, tuple(records))


def _keep(name: str, layout: Layout, trained: Finished, observer: Observer, keeper: Keeper | None) -> None:
    """Into the cache, unless a client failed: its bad moment must not be kept for all later runs; nor a run that went on under
    changed conditions, a mixture that is nobody else's twin. A cache that cannot be written costs later runs time, but not this
    run its result."""
    mixture = keeper is not None and not keeper.exact and trained.earlier
    if mixture or any(record.failures for record in trained.records):
        return
    try:
        twins.save(name, layout, trained.state, list(trained.records))
    except OSError as error:
        observer.stage(TWIN, f"not kept for later runs: {error}")


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
        "device": device.name(device.resolve(study.config["device"])),
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
