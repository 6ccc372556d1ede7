"""What trackers get: settings, and numbers by names that end in their unit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from fedrobust.evaluation.metrics import NAMES
from fedrobust.experiment.experiment import Experiment
from fedrobust.reporting.report import Report
from fedrobust.reporting.trackers.base import Value
from fedrobust.types import RoundRecord

TWIN_PREFIX = "twin/"


def run_title(experiment: Experiment) -> str:
    """A run's name, e.g. "etf_dml, label_flip by 3 of 10, seed 0"."""
    total, settings = experiment.num_clients, experiment.settings
    groups = {"poisoned": settings.contamination, "noisy": settings.noise}
    counts = {kind: len(experiment.clients_of_kind(kind)) for kind in groups}
    bad = [
        f"{groups[kind].factory} by {count} of {total}" for kind, count in counts.items() if count
    ]
    return ", ".join([experiment.strategy.name, *(bad or ["clean"]), f"seed {experiment.seed}"])


def flat_settings(config: Mapping[str, Any], path: str = "") -> dict[str, Value]:
    """A configuration as {"client.optimizer.lr": 0.001, ...}; null and lists as JSON text."""
    found: dict[str, Value] = {}
    for key, value in config.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat_settings(value, f"{name}.")
        elif isinstance(value, str | int | float | bool):
            found[name] = value
        else:
            found[name] = json.dumps(value)
    return found


def round_values(run: str, record: RoundRecord) -> dict[str, float]:
    """The numbers of a round, without those that are undefined.

    Args:
        run: "run", or "clean twin", whose names begin with twin/.
        record: of the round.
    """
    front = "" if run == "run" else TWIN_PREFIX
    found: dict[str, Any] = {
        **_metrics(f"{front}validation", record.metrics),
        **{f"{front}seconds/{stage}": one for stage, one in record.seconds.items()},
        f"{front}clients/replies": len(record.clients),
        f"{front}clients/failures": sum(one.counts for one in record.failures),
        **{f"{front}rule/{name}": one for name, one in record.extras.items()},
    }
    spent = found.pop(f"{front}rule/epsilon", None)
    return _numbers(found if spent is None else {**found, f"{front}privacy/epsilon": spent})


def result_values(report: Report) -> dict[str, float]:
    """The numbers of a finished run: evaluations, drops with their intervals, seconds."""
    found: dict[str, Any] = {}
    for name, one in report.evaluations.items():
        found |= _metrics(f"test/{name}", {**one.values, "n": one.n})
    for name, drop in report.drops.present.items():
        for metric, one_metric in drop.per_metric.items():
            found[f"drop/{name}/{metric}_percent"] = one_metric.drop
        low, high = drop.ci95 or (None, None)
        found |= {
            f"drop/{name}/combined_percent": drop.combined,
            f"drop/{name}/combined_low_percent": low,
            f"drop/{name}/combined_high_percent": high,
        }
    found["attack_success_rate_percent"] = report.attack_success_rate
    if report.schedule is not None and report.schedule.durability is not None:
        found["backdoor_lifespan_rounds"] = report.schedule.durability.lifespan
    if report.detection is not None:
        found["detection/precision_percent"] = report.detection.precision
        found["detection/recall_percent"] = report.detection.recall
    if report.label_detection is not None:
        found["label_detection/precision_percent"] = report.label_detection.precision
        found["label_detection/recall_percent"] = report.label_detection.recall
    if report.privacy is not None:
        found["privacy/epsilon"] = report.privacy.epsilon
    found["rounds"] = report.rounds
    if report.best is not None:
        found[f"best/{report.best.metric}_percent"] = report.best.value
        found["best/round"] = report.best.round
    found |= {f"seconds_total/{stage}": spent for stage, spent in report.timing.items()}
    return _numbers(found)


def _metrics(front: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{front}/images" if name == "n" else f"{front}/{name}_percent": value
        for name, value in metrics.items()
        if name == "n" or name in NAMES
    }


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
