"""Results of the cells, read again, and all of them as one long table."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open

from fedrobust.evaluation.detection import false_alarms, named_clients
from fedrobust.evaluation.drops import METRICS
from fedrobust.learning.model_files import ANCHORS
from fedrobust.reporting.filenames import MANIFEST
from fedrobust.reporting.predictions import Predictions, read_predictions
from fedrobust.reporting.records import read_rounds
from fedrobust.reporting.report import Report, read_report
from fedrobust.reporting.spreads import MEASURES
from fedrobust.studies.comparison.grid import NOBODY, Cell
from fedrobust.studies.comparison.worker import COST
from fedrobust.types import RoundRecord

SITE_METRICS = ("accuracy", "balanced_accuracy", "f1")

COLUMNS = (
    *("strategy", "contamination", "severity", "poisoned", "share", "seed"),
    *("metric", "value", "low", "high", "unit", "note", "cell"),
)
FLOAT_BYTES = 4
FAILED = "failed"


@dataclass(frozen=True)
class Result:
    """A finished cell. rounds: of rounds.jsonl; cost: of cost.json, empty where it is
    missing; program: digest of the sources that made it; state_bytes: of one model as it
    travels."""

    cell: Cell
    folder: Path
    report: Report
    rounds: Sequence[RoundRecord]
    cost: Mapping[str, float | None]
    program: str | None
    state_bytes: int

    @property
    def poisoned_weights(self) -> list[tuple[int, float]]:
        """(round, summed influence of the poisoned clients) for every round with replies."""
        poisoned = set(self.report.poisoned)
        trained = [record for record in self.rounds if record.clients]
        return [
            (
                record.number,
                sum(one.weight for one in record.clients if one.client in poisoned),
            )
            for record in trained
        ]

    @property
    def false_alarms(self) -> float | None:
        """Percentage of the clients that are not poisoned which are flagged."""
        asked = self.report.participants
        trained = [one for one in self.report.clients if asked is None or one.id in asked]
        return false_alarms(trained, named_clients(self.rounds))

    @property
    def bytes_sent(self) -> int:
        """Computed, not measured: models sent and received times the bytes of a model. The state
        goes to every client of a round and comes back from those that answer, and goes once more to
        all clients for evaluation; other traffic is not counted."""
        models = sum(2 * len(one.clients) + len(one.failures) for one in self.rounds)
        return (models + self.report.num_clients) * self.state_bytes

    def predictions(self) -> Predictions:
        """Raises DataError."""
        return read_predictions(self.folder)


def read_result(cell: Cell, folder: Path) -> Result:
    """A finished cell's result. Raises OSError or ValueError."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    cost = (
        json.loads((folder / COST).read_text(encoding="utf-8")) if (folder / COST).exists() else {}
    )
    size = state_bytes(folder / "model.safetensors")
    return Result(
        cell, folder, read_report(folder), read_rounds(folder), cost, manifest.get("program"), size
    )


def state_bytes(path: Path) -> int:
    """Bytes of the floats of a model on disk, without the fixed ETF, which does not travel."""
    with safe_open(path, framework="pt") as opened:
        file: Any = opened  # safetensors' types are incomplete
        names = [name for name in file.keys() if name != ANCHORS]  # noqa: SIM118
        shapes = [file.get_slice(name).get_shape() for name in names]
    return FLOAT_BYTES * sum(_product(shape) for shape in shapes)


def _product(shape: Sequence[int]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def severity(cell: Cell) -> float | None:
    """The graded severity of the cell's attack, where it has one."""
    value = None if cell.contamination == NOBODY else cell.settings.contamination.get("severity")
    return value if isinstance(value, int | float) else None


def long_table(results: Sequence[Result], failed: Mapping[Cell, str]) -> pd.DataFrame:
    """One row a cell and metric (COLUMNS; docs/compare.md says what each is); a failed cell has one
    row, with its reason."""
    rows = [
        {**_labels(one.cell), **row, "cell": one.folder.name}
        for one in results
        for row in _metrics(one)
    ]
    rows += [
        {**_labels(cell), "metric": FAILED, "note": reason, "cell": cell.folder}
        for cell, reason in failed.items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _labels(cell: Cell) -> dict[str, Any]:
    return {
        "strategy": cell.strategy,
        "contamination": cell.contamination,
        "severity": severity(cell),
        "poisoned": cell.poisoned,
        "share": 100 * cell.poisoned / cell.settings.num_clients,
        "seed": cell.seed,
    }


def _metrics(result: Result) -> Iterator[dict[str, Any]]:
    report = result.report
    for name, evaluation in sorted(report.evaluations.items()):
        for metric, value in sorted({**evaluation.values, "n": evaluation.n}.items()):
            yield {
                "metric": f"{name}.{metric}",
                "value": value,
                "unit": "images" if metric == "n" else "%",
            }
    for name, drop in sorted(report.drops.present.items()):
        low, high = drop.ci95 or (None, None)
        yield {
            "metric": f"drop.{name}.combined",
            "value": drop.combined,
            "low": low,
            "high": high,
            "unit": "%",
        }
        for metric in METRICS:
            yield {
                "metric": f"drop.{name}.{metric}",
                "value": drop.per_metric[metric].drop,
                "unit": "%",
            }
    yield from _fairness(report)
    yield from _site_drops(report)
    yield from _site_means(report)
    if report.certificate is not None:
        yield {"metric": "certificate.accuracy", "value": report.certificate.accuracy, "unit": "%"}
        for m, certified in enumerate(report.certificate.certified_accuracy):
            yield {"metric": f"certificate.m{m}", "value": certified, "unit": "%"}
    yield {"metric": "attack_success_rate", "value": report.attack_success_rate, "unit": "%"}
    yield from _lifespan(report)
    yield from _detections(result)
    weights = [weight for _, weight in result.poisoned_weights]
    if result.cell.poisoned:
        yield {
            "metric": "influence.poisoned",
            "value": sum(weights) / len(weights),
            "unit": "share",
        }
    for name in ("run", "aggregate"):
        yield {"metric": f"seconds.{name}", "value": report.timing.get(name), "unit": "s"}
    for name in ("peak_memory", "peak_gpu_memory"):
        yield {"metric": name, "value": result.cost.get(name), "unit": "bytes"}
    yield {"metric": "bytes_sent", "value": result.bytes_sent, "unit": "bytes", "note": "computed"}


def _lifespan(report: Report) -> Iterator[dict[str, Any]]:
    """Of a backdoor whose attackers stop or leave."""
    if report.schedule is not None and (lasts := report.schedule.durability) is not None:
        yield {"metric": "backdoor.lifespan", "value": lasts.lifespan, "unit": "rounds"}
        yield {"metric": "backdoor.at_last_attack", "value": lasts.success_rates[0], "unit": "%"}


def _detections(result: Result) -> Iterator[dict[str, Any]]:
    """Of poisoned clients and, where a trainer says so, of wrong labels."""
    for section, found in (
        ("detection", result.report.detection),
        ("label_detection", result.report.label_detection),
    ):
        if section == "detection" or found is not None:
            for name in ("precision", "recall"):
                share = None if found is None else getattr(found, name)
                yield {"metric": f"{section}.{name}", "value": share, "unit": "%"}
    yield {"metric": "detection.false_alarms", "value": result.false_alarms, "unit": "%"}


def _fairness(report: Report) -> Iterator[dict[str, Any]]:
    """Worst case and spread of run and twin on clean test images, and what differs."""
    section = report.fairness
    if section is None:
        return
    parts: dict[str, Mapping[str, Any]] = {
        name: section.evaluations[name]
        for name in ("clean", "twin_clean")
        if name in section.evaluations
    }
    parts |= {"drop.poisoning": section.drops.get("poisoning", {})}
    for part, quantities in parts.items():
        for quantity, measure in itertools.product(sorted(quantities), MEASURES):
            one = getattr(quantities[quantity], measure)
            low, high = one.ci95 or (None, None)
            unit = "%" if measure == "worst" else "points"
            name = f"{part}.{quantity}.{measure}"
            yield {"metric": name, "value": one.value, "low": low, "high": high, "unit": unit}


def _site_drops(report: Report) -> Iterator[dict[str, Any]]:
    """Drops over clients, of all and of each kind: site_drop.<model>.<drop>.<kind>."""
    section = report.site_drops
    models = {
        "global": None if section is None else section.global_model,
        "personal": None if section is None else section.personal_models,
    }
    for model, drops in models.items():
        for name, drop in ({} if drops is None else drops.present).items():
            by_kind = {kind: one.combined for kind, one in drop.by_kind.items()}
            for kind, combined in {"all": drop.combined, **by_kind}.items():
                metric = f"site_drop.{model}.{name}.{kind}"
                yield {"metric": metric, "value": combined, "unit": "%"}


def _site_means(report: Report) -> Iterator[dict[str, Any]]:
    """Where drops over clients are asked for: their mean metrics on clean images, each on its own
    test images: site.<model>.<condition>.<metric>.<kind>."""
    if report.site_drops is None:
        return
    found: dict[str, list[float]] = {}
    for client in report.clients:
        measured = {"global.clean": client.clean}
        if client.personal is not None:
            measured["personal.clean"] = client.personal.clean
            if client.personal.twin_clean is not None:
                measured["personal.twin_clean"] = client.personal.twin_clean
        for (name, metrics), metric in itertools.product(measured.items(), SITE_METRICS):
            value = getattr(metrics, metric)
            for kind in ("all", client.kind):
                values = found.setdefault(f"site.{name}.{metric}.{kind}", [])
                if value is not None:
                    values.append(value)
    for name, values in found.items():
        mean = sum(values) / len(values) if values else None
        yield {"metric": name, "value": mean, "unit": "%"}
