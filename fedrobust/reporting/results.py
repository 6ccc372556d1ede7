"""From probabilities to the report: evaluations, the four drops, every client's results. Pure
functions, nothing is run here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor

from fedrobust.defences.sanitisation.detection import pool_detections
from fedrobust.evaluation.counts import (
    REASONS,
    ClientEvaluation,
    RoundedCounts,
    Scored,
    Withheld,
    measure,
)
from fedrobust.evaluation.detection import detection_scores, named_clients
from fedrobust.evaluation.drops import (
    METRICS,
    Drop,
    combined_draws,
    combined_drop,
    measure_drop,
    resampled_metrics,
)
from fedrobust.evaluation.label_detection import pool_label_counts
from fedrobust.evaluation.metrics import classification_metrics, success_rate
from fedrobust.evaluation.prediction_details import confusion_counts, mean_roc, reliability
from fedrobust.evaluation.statistics import Interval, number_or_nan, percentiles
from fedrobust.experiment.experiment import KINDS, PERSONAL, Experiment
from fedrobust.reporting.fairness import compared_evaluations, fairness_section
from fedrobust.reporting.report.details import (
    MOST_CLASSES,
    PredictionDetails,
    ReliabilitySection,
)
from fedrobust.reporting.report.metrics import (
    ClientsDrop,
    ConditionDrop,
    ConditionMetrics,
    DropsSection,
    EvaluationMetrics,
    KindDrop,
)
from fedrobust.reporting.report.personal import PersonalMetrics
from fedrobust.reporting.report.schedule import schedule_section
from fedrobust.reporting.report.sections import (
    MOST_NAMED,
    ClientResult,
    DetectionSection,
    DisclosureSection,
    LabelDetectionSection,
    LeftOutFiles,
    PredictionResults,
    PurifiedMetrics,
    SanitisingSection,
)
from fedrobust.types import RoundRecord

Middle = Callable[[Sequence[float]], float]


class PairedClient(Protocol):
    """One client in a normal and an attacked condition."""

    @property
    def kind(self) -> str: ...

    @property
    def clean(self) -> ConditionMetrics: ...

    @property
    def contaminated(self) -> ConditionMetrics: ...


@dataclass(frozen=True)
class RunPredictions:
    """Predictions of a run. test: {clean | corrupted | twin_clean | twin_corrupted: (N, K)} on all
    test images; clients: {client: {clean | contaminated | purified_...: (probabilities, labels)}},
    of real sites counts, or that they report nothing; triggered: (n, K) on images with the
    backdoor's trigger; twin_personal: by client what its own model of the clean twin predicts on
    its clean test images, where clients have models of their own."""

    test: Mapping[str, Tensor]
    clients: Mapping[int, ClientEvaluation]
    triggered: Tensor | None = None
    twin_personal: Mapping[int, Scored] = field(default_factory=dict)


def assemble_results(
    experiment: Experiment, scores: RunPredictions, records: Sequence[RoundRecord]
) -> PredictionResults:
    """The report's entries that follow from predictions.

    Args:
        experiment: what was run.
        scores: what the models predicted.
        records: the run's rounds.
    """
    rows = experiment.test_rows()
    labels = experiment.dataset.labels[rows]
    clients = client_results(experiment, scores.clients, records, scores.twin_personal)
    trained = [client for client in clients if experiment.trains(client.id)]
    named = named_clients(records)
    found = detection_scores(trained, named)
    simulated = () if experiment.sites else records  # at real sites no client knows what is wrong
    left_out = pool_detections(simulated, experiment.sanitiser.warmup)
    suspected = pool_label_counts(simulated)
    evaluations = {
        name: EvaluationMetrics.model_validate(classification_metrics(part, labels))
        for name, part in scores.test.items()
    }
    return PredictionResults(
        evaluations=evaluations,
        drops=DropsSection(
            **_test_drops(experiment, scores.test, labels, rows),
            clients=clients_drop(experiment, clients),
        ),
        fairness=fairness_section(experiment, scores.test, clients),
        severity_drops=_severity_drops(experiment, scores.test, evaluations) or None,
        details={
            name: prediction_details(part, labels)
            for name, part in scores.test.items()
            if name not in experiment.severities
        },
        clients=clients,
        attack_success_rate=_success(experiment, scores.triggered),
        schedule=schedule_section(records),
        detection=None if found is None else DetectionSection.model_validate(found),
        named=None if named is None else tuple(sorted(named)),
        sanitising=None if left_out is None else SanitisingSection.model_validate(left_out),
        label_detection=(
            None if suspected is None else LabelDetectionSection.model_validate(suspected)
        ),
    )


def left_out_files(skipped: Mapping[str, str]) -> LeftOutFiles | None:
    """The report's entry of the files that are not in the data set.

    Args:
        skipped: their reasons by name.
    """
    if not skipped:
        return None
    return LeftOutFiles(count=len(skipped), first=dict(islice(skipped.items(), MOST_NAMED)))


def _test_drops(
    experiment: Experiment, test: Mapping[str, Tensor], labels: Tensor, rows: Tensor
) -> dict[str, ConditionDrop]:
    pairs = compared_evaluations(test)
    groups = experiment.dataset.groups[rows]
    options: dict[str, Any] = {
        "generator": experiment.generator("bootstrap"),
        "draws": experiment.evaluation.bootstrap_samples,
    }
    return {
        name: ConditionDrop.model_validate(
            measure_drop(labels, test[normal], test[attack], groups, **options)
        )
        for name, (normal, attack) in sorted(pairs.items())
    }


def _severity_drops(
    experiment: Experiment, test: Mapping[str, Tensor], evaluations: Mapping[str, EvaluationMetrics]
) -> dict[str, ConditionDrop]:
    """From clean test images to those of each severity, all with the same draws."""
    names = [name for name in experiment.severities if name in test]
    normal = evaluations["clean"].values
    drops = {name: combined_drop(normal, evaluations[name].values) for name in names}
    draws = experiment.evaluation.bootstrap_samples
    if draws and names:
        rows = experiment.test_rows()
        labels = experiment.dataset.labels[rows]
        before, *after = resampled_metrics(
            [(labels, test[name].argmax(dim=1)) for name in ("clean", *names)],
            experiment.num_classes,
            experiment.dataset.groups[rows],
            draws,
            experiment.generator("bootstrap", "severities"),
        )
        intervals = [percentiles(combined_draws(before, one)) for one in after]
        drops = {
            name: replace(drop, ci95=interval)
            for (name, drop), interval in zip(drops.items(), intervals, strict=True)
        }
    return {name: ConditionDrop.model_validate(drop) for name, drop in drops.items()}


def prediction_details(probabilities_NK: Tensor, labels_N: Tensor) -> PredictionDetails:
    """What lies behind the metrics of one evaluation.

    Args:
        probabilities_NK: class probabilities of the test images.
        labels_N: their true classes.

    Returns:
        Confusion matrix, reliability and ROC curve.
    """
    confusion = None
    if probabilities_NK.shape[1] <= MOST_CLASSES:
        confusion = tuple(map(tuple, confusion_counts(probabilities_NK, labels_N).tolist()))
    bins = reliability(probabilities_NK, labels_N)
    curve = mean_roc(probabilities_NK, labels_N)
    return PredictionDetails(
        confusion=confusion,
        reliability=tuple(ReliabilitySection.model_validate(one) for one in bins),
        roc=None if curve is None else tuple(min(rate, 100.0) for rate in curve),
    )


def client_results(
    experiment: Experiment,
    scores: Mapping[int, ClientEvaluation],
    records: Sequence[RoundRecord],
    twin_personal: Mapping[int, Scored] | None = None,
) -> tuple[ClientResult, ...]:
    """A row per client: the global model on its own test shard, clean and under its contamination.
    Where the evaluation did not arrive (server.max_failures), or reports nothing, all metrics are
    undefined, n is 0."""
    rounds = [record for record in records if record.number > 0]
    weights = dict.fromkeys(range(experiment.num_clients), 0.0)
    for record in rounds:
        for one in record.clients:
            weights[one.client] += one.weight / len(rounds)
    return tuple(
        _client_result(
            experiment, client, scores.get(client, {}), weight, (twin_personal or {}).get(client)
        )
        for client, weight in weights.items()
    )


def _client_result(
    experiment: Experiment,
    client: int,
    evaluated: ClientEvaluation,
    weight: float,
    twin_personal: Scored | None,
) -> ClientResult:
    nothing = torch.zeros(0, experiment.num_classes), torch.zeros(0, dtype=torch.int64)
    reported: dict[str, Scored | RoundedCounts] = {"clean": nothing, "contaminated": nothing}
    reported |= {} if isinstance(evaluated, Withheld) else evaluated
    metrics = {
        name: ConditionMetrics.model_validate(measure(part)) for name, part in reported.items()
    }
    clean, contaminated = metrics["clean"], metrics["contaminated"]
    purified = None
    if "purified_clean" in metrics:
        purified = PurifiedMetrics(
            clean=metrics["purified_clean"], contaminated=metrics["purified_contaminated"]
        )
    return ClientResult(
        id=client,
        site=experiment.sites[client] if experiment.sites else None,
        sites=experiment.sites_of(client) or None,
        kind=experiment.roles[client],
        num_examples=experiment.num_examples(client),
        clean=clean,
        contaminated=contaminated,
        purified=purified,
        personal=_personal(metrics, twin_personal),
        combined_drop=combined_drop(clean.values, contaminated.values).combined,
        weight=min(weight, 1.0),
        disclosure=_disclosure(evaluated),
    )


def _personal(
    metrics: Mapping[str, ConditionMetrics], twin_clean: Scored | None
) -> PersonalMetrics | None:
    """The client's own model, where it has one and reports on it."""
    own = {name: metrics[name] for name in PERSONAL if name in metrics}
    if not own:
        return None
    if twin_clean is not None:
        own["personal_twin_clean"] = ConditionMetrics.model_validate(measure(twin_clean))
    return PersonalMetrics(**{name.removeprefix("personal_"): one for name, one in own.items()})


def _disclosure(evaluated: ClientEvaluation) -> DisclosureSection | None:
    """Form of a real site's report on its test images, where it did not report predictions."""
    if isinstance(evaluated, Withheld):
        return DisclosureSection(form="nothing", reason=REASONS[evaluated.code])
    cells = [one.min_cell for one in evaluated.values() if isinstance(one, RoundedCounts)]
    return DisclosureSection(form="counts", min_cell=cells[0]) if cells else None


def clients_drop(experiment: Experiment, clients: Sequence[PairedClient]) -> ClientsDrop:
    """The drop of the metrics' means over clients (every client counts alike), for all and by kind.

    The interval resamples clients, since they are what is averaged; None for fewer than two.
    """
    drop = _drop_of(clients, _mean)
    by_kind = {}
    for kind in KINDS:
        of_kind = [client for client in clients if client.kind == kind and client.clean.n]
        if of_kind:
            by_kind[kind] = KindDrop(
                combined=_drop_of(of_kind, _mean).combined,
                median=_drop_of(of_kind, median).combined,
                num_clients=len(of_kind),
            )
    interval = clients_interval(
        clients,
        experiment.evaluation.bootstrap_samples,
        experiment.generator("bootstrap", "clients"),
    )
    return ClientsDrop(
        **dict(ConditionDrop.model_validate(replace(drop, ci95=interval))),
        median=_drop_of(clients, median).combined,
        self_reported=bool(experiment.sites),
        by_kind=by_kind,
    )


def _drop_of(clients: Sequence[PairedClient], middle: Middle) -> Drop:
    """The drop of each metric's mean or median over the clients where it is defined."""
    return combined_drop(
        _pool([client.clean for client in clients], middle),
        _pool([client.contaminated for client in clients], middle),
    )


def _pool(found: Sequence[ConditionMetrics], middle: Middle) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for metric in METRICS:
        values = [one.values[metric] for one in found]
        known = [value for value in values if value is not None]
        out[metric] = middle(known) if known else None
    return out


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def clients_interval(
    clients: Sequence[PairedClient], draws: int, generator: torch.Generator
) -> Interval | None:
    """95 % percentile interval of the clients' combined drop over resampled clients (paired: a
    client keeps both conditions), those without an evaluation left out."""
    clients = [client for client in clients if client.clean.n]
    if len(clients) < 2 or draws == 0:
        return None
    values_NSM = torch.tensor(
        [
            [
                [number_or_nan(side.values[metric]) for metric in METRICS]
                for side in (client.clean, client.contaminated)
            ]
            for client in clients
        ],
        dtype=torch.float64,
    )
    picks = torch.randint(len(clients), (draws, len(clients)), generator=generator)
    normal, attack = (
        dict(zip(METRICS, means_BM.T, strict=True))
        for means_BM in values_NSM[picks].nanmean(dim=1).unbind(dim=1)
    )
    return percentiles(combined_draws(normal, attack))


def _success(experiment: Experiment, triggered: Tensor | None) -> float | None:
    backdoor = experiment.backdoor
    if backdoor is None or triggered is None or len(triggered) == 0:
        return None
    return success_rate(triggered, backdoor.target)
