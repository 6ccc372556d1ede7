"""A whole run over a given Grid: rounds, clean twin, evaluation; the model and report.json in the
output folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch

from fedrobust.data import TEST
from fedrobust.experiment.experiment import Experiment
from fedrobust.learning.model_files import save_state
from fedrobust.reporting.filenames import BEST_MODEL, MODEL
from fedrobust.reporting.predictions import pool_clients, write_predictions
from fedrobust.reporting.report import Report, write_report
from fedrobust.reporting.report.attacks import EvasionSection
from fedrobust.reporting.report.certificate import CertificateSection
from fedrobust.reporting.report.sections import (
    BestRoundSection,
    PrivacySection,
    StoppingSection,
)
from fedrobust.reporting.results import RunPredictions, assemble_results, left_out_files
from fedrobust.reporting.setup import describe_setup
from fedrobust.reporting.site_drops import site_drops
from fedrobust.runtime.server.certification import certify
from fedrobust.runtime.server.checkpointing import CheckpointManager
from fedrobust.runtime.server.clean_twin import CleanTwin, train_clean_twin
from fedrobust.runtime.server.evasion import evaluate_evasion
from fedrobust.runtime.server.loop import (
    TrainingResult,
    evaluate_clients,
    predict_global,
    run_rounds,
)
from fedrobust.runtime.server.rule_strategy import Grid, ServerContext
from fedrobust.runtime.server.stopping import find_best
from fedrobust.state import frozen_tensors
from fedrobust.types import ATTACKS, Observer, Samples
from fedrobust.utils import devices
from fedrobust.utils.plugins import find_plugin


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


def run_experiment(
    server: ServerContext,
    grid: Grid,
    folder: Path,
    observer: Observer,
    engine: str,
    *,
    checkpointing: CheckpointManager | None = None,
) -> tuple[Report, RunPredictions]:
    """Run the server's experiment and its clean twin, evaluate both, write model.safetensors,
    predictions.npz and report.json.

    checkpointing: writes checkpoints, and resumes an interrupted run from its last one.
    Returns the report and the scores it was made from.
    """
    experiment, clock = server.experiment, Clock()
    with clock.stage("run"):
        finished = run_rounds(server, grid, observer, checkpointing=checkpointing)
    clock.seconds["run"] += finished.seconds_before_resume
    _save_models(folder, server, finished)
    evasion: EvasionSection | None = None
    # before the twin, while the clients' models are still there
    if experiment.evasion.attack is not None:
        with clock.stage("evasion"):
            evasion = evaluate_evasion(server, finished, observer)
    clean: CleanTwin | None = None
    if experiment.evaluation.twin:
        with clock.stage("twin"):
            clean = train_clean_twin(experiment, finished, grid, observer, checkpointing)
        trained = clean.training
        clock.seconds["twin"] += 0.0 if trained is finished else trained.seconds_before_resume
    certificate: CertificateSection | None = None
    if experiment.settings.certificate.groups is not None:
        with clock.stage("certificate"):
            certificate = certify(experiment, finished.rounds, grid, observer)
    with clock.stage("final_evaluation"):
        scores = _scores(server, finished, clean, grid, observer)
        results = assemble_results(experiment, scores, finished.records)
    _write_predictions(folder, experiment, scores)
    report = Report(
        schema=1,
        setup=describe_setup(experiment),
        strategy=experiment.strategy.name,
        num_clients=experiment.num_clients,
        poisoned=tuple(experiment.clients_of_kind("poisoned")),
        noisy=tuple(experiment.clients_of_kind("noisy")),
        participants=experiment.settings.participants,
        seed=experiment.seed,
        rounds=finished.rounds,
        stopping=_stopping(experiment, finished),
        best=_best(experiment, finished),
        engine=engine,
        device=devices.device_name(devices.resolve(experiment.settings.device)),
        privacy=_privacy(experiment, finished),
        evasion=evasion,
        certificate=certificate,
        site_drops=site_drops(experiment, scores.test, results.clients),
        plugins=_plugins(experiment),
        left_out_files=left_out_files(experiment.dataset.skipped),
        timing={**clock.seconds, **_stages(finished)},
        **dict(results),
    )
    write_report(folder, report)
    return report, scores


def _save_models(folder: Path, server: ServerContext, finished: TrainingResult) -> None:
    """The model of the last round and, where it is wanted, that of the best."""
    notes = {"class_names": "|".join(server.experiment.dataset.class_names)}
    frozen = frozen_tensors(server.model)
    for name, state in ((MODEL, finished.state), (BEST_MODEL, finished.best)):
        if state is not None:
            save_state(
                folder / name, server.layout, state, server.model.anchors, notes, frozen=frozen
            )


def _plugins(experiment: Experiment) -> dict[str, str] | None:
    """{name: version} of the plug-ins; None without any."""
    names = experiment.settings.plugins
    return {name: find_plugin(name).version or "unknown" for name in names} or None


def _write_predictions(folder: Path, experiment: Experiment, scores: RunPredictions) -> None:
    """Those of clients only in simulations: what real sites say of their images stays off the
    disk."""
    rows, dataset = experiment.test_rows(), experiment.dataset
    clients = {}
    if not experiment.remote:
        images = {
            client: torch.searchsorted(rows, experiment.rows(client, TEST))
            for client in scores.clients
        }
        clients = pool_clients(scores.clients, images)
    write_predictions(folder, dataset.labels[rows], dataset.groups[rows], scores.test, clients)


def _scores(
    server: ServerContext,
    finished: TrainingResult,
    twin: CleanTwin | None,
    grid: Grid,
    observer: Observer,
) -> RunPredictions:
    experiment = server.experiment
    attacks = finished.records[-1].extras.get(ATTACKS, 1.0) > 0
    clients = evaluate_clients(
        server, finished.state, grid, observer, finished.rounds, attacks=attacks
    )
    observer.stage("run", "evaluate the test images")
    inputs = server.inputs
    conditions: Mapping[str, Samples] = {"clean": inputs.test, "corrupted": inputs.corrupted()}
    test = {
        name: predict_global(server, finished.state, samples)
        for name, samples in conditions.items()
    }
    test |= {
        grade: predict_global(server, finished.state, inputs.corrupted(grade))
        for grade in experiment.severities
    }
    if experiment.purifies:
        behind = {name: experiment.purifier_for("global", name) for name in conditions}
        clean = experiment.samples(experiment.test_rows())
        images = {"clean": clean, "corrupted": experiment.corrupt(clean)}
        test |= {
            f"purified_{name}": predict_global(server, finished.state, x, behind[name])
            for name, x in images.items()
        }
    if twin is not None:
        test |= {
            f"twin_{name}": predict_global(server, twin.training.state, samples)
            for name, samples in conditions.items()
        }
    backdoor = experiment.backdoor
    marked = (
        None
        if backdoor is None
        else predict_global(server, finished.state, inputs.triggered(backdoor))
    )
    return RunPredictions(test, clients, marked, {} if twin is None else twin.personal)


def _privacy(experiment: Experiment, finished: TrainingResult) -> PrivacySection | None:
    privacy, rounds = experiment.privacy, finished.rounds
    if privacy.clip is None:
        return None
    replies, asked = experiment.max_replies(rounds), experiment.settings.num_participants
    dropped = sum(one.counts for record in finished.records for one in record.failures)
    return PrivacySection(
        name=privacy.name,
        clip=privacy.clip,
        noise_multiplier=privacy.noise_multiplier,
        replies=replies,
        delta=privacy.delta if privacy.noisy else None,
        epsilon_per_reply=privacy.spent(1),
        epsilon=privacy.spent(replies),
        threshold=privacy.least(asked) if privacy.secure else None,
        participants=asked if privacy.secure else None,
        dropped=dropped if privacy.secure else None,
    )


def _stopping(experiment: Experiment, finished: TrainingResult) -> StoppingSection | None:
    reason = finished.records[-1].stopped
    planned = experiment.settings.rounds
    return StoppingSection(planned_rounds=planned, reason=reason) if reason else None


def _best(experiment: Experiment, finished: TrainingResult) -> BestRoundSection | None:
    metric = experiment.evaluation.best_metric
    if metric is None:
        return None
    found = find_best(finished.records, metric)
    return BestRoundSection(
        metric=metric,
        round=None if found is None else found.number,
        value=None if found is None else found.value,
    )


def _stages(finished: TrainingResult) -> dict[str, float]:
    """Seconds of the run's rounds by stage, summed."""
    total: dict[str, float] = {}
    for record in finished.records:
        for stage, seconds in record.seconds.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total
