"""Made-up but realistic reports and rounds for the tests of everything that shows or writes
results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import torch

from fedrobust.evaluation.detection import detection_scores
from fedrobust.reporting.report import Report, parse_report, report_text
from fedrobust.reporting.report.values import ReportSection
from fedrobust.types import ClientRecord, RoundRecord
from fedrobust.utils.seeding import generator

METRICS = ("accuracy", "balanced_accuracy", "f1", "precision", "auroc", "ece")


def evaluation(level: float, n: int = 1002) -> dict[str, Any]:
    values = (level + 12.3, level, level - 3.21, level - 1.05, min(level + 30, 99.0), 6.5)
    return {**dict(zip(METRICS, values, strict=True)), "n": n}


def undefined(n: int = 3) -> dict[str, Any]:
    return {**dict.fromkeys(METRICS), "n": n}


def drop(normal: dict[str, Any], attack: dict[str, Any]) -> dict[str, Any]:
    names = ("accuracy", "f1", "precision")
    entries = {
        m: {
            "normal": normal[m],
            "attack": attack[m],
            "drop": 100 * (normal[m] - attack[m]) / normal[m],
        }
        for m in names
    }
    combined = sum(entry["drop"] for entry in entries.values()) / 3
    return {
        "per_metric": entries,
        "combined": combined,
        "ci95": [combined - 3.1, combined + 3.4],
        "skipped": [],
    }


def skipped_drop() -> dict[str, Any]:
    entries = {
        "accuracy": {"normal": 40.0, "attack": 42.0, "drop": -5.0},
        "f1": {"normal": 0.0, "attack": 1.0, "drop": None},
        "precision": {"normal": None, "attack": None, "drop": None},
    }
    return {"per_metric": entries, "combined": -5.0, "ci95": None, "skipped": ["f1", "precision"]}


def kind_of(client: int, poisoned: int, noisy: int) -> str:
    return "poisoned" if client < poisoned else "noisy" if client < poisoned + noisy else "clean"


def clients(number: int, poisoned: int, noisy: int) -> list[dict[str, Any]]:
    out = []
    for client in range(number):
        kind = kind_of(client, poisoned, noisy)
        level = {"clean": 52.0, "noisy": 48.0, "poisoned": 46.0}[kind] + client % 5
        after = {"clean": level, "noisy": level - 5, "poisoned": level - 17.5}[kind]
        out.append(
            {
                "id": client,
                "kind": kind,
                "num_examples": 120 + 37 * client,
                "clean": evaluation(level, 31),
                "contaminated": evaluation(after, 31),
                "combined_drop": 100 * (level - after) / level,
                "weight": (0.02 if kind == "poisoned" else 1.0) / number,
            }
        )
    return out


def detection(people: list[dict[str, Any]]) -> dict[str, float | None] | None:
    found = detection_scores([SimpleNamespace(**one) for one in people])
    if found is None:
        return None
    return {name: value for name, value in asdict(found).items() if name != "by"}


def typed(document: dict[str, Any]) -> Report:
    """The report that a JSON document holds."""
    return parse_report(json.dumps(document))


def plain(made: Report) -> dict[str, Any]:
    """The JSON document of a report."""
    document: dict[str, Any] = json.loads(report_text(made))
    return document


def plain_section(section: ReportSection | None) -> Any:
    """The JSON value of a part of a report."""
    return None if section is None else section.model_dump(mode="json", by_alias=True)


def rounded(value: Any) -> Any:
    """A document whose numbers are all rounded to the 4 decimals of a percentage."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def report(
    number: int = 10, poisoned: int = 3, noisy: int = 1, twin: bool = True
) -> dict[str, Any]:
    levels = {"clean": 48.1, "corrupted": 39.4} | (
        {"twin_clean": 51.2, "twin_corrupted": 52.0} if twin else {}
    )
    evaluations = {name: evaluation(level) for name, level in levels.items()}
    clean, corrupted = evaluations["clean"], evaluations["corrupted"]
    people = clients(number, poisoned, noisy)
    kinds = {
        kind: sum(one["kind"] == kind for one in people) for kind in ("clean", "noisy", "poisoned")
    }
    by_kind = {
        k: {
            "combined": {"clean": 0.0, "noisy": 9.8, "poisoned": 36.1}[k],
            "median": {"clean": 0.0, "noisy": 9.8, "poisoned": 35.2}[k],
            "num_clients": c,
        }
        for k, c in kinds.items()
        if c
    }
    drops = {
        "corruption": drop(clean, corrupted),
        "clients": {
            **skipped_drop(),
            "median": 9.7,
            "self_reported": False,
            "by_kind": by_kind,
        },
    }
    if twin:
        drops |= {
            "poisoning": drop(evaluations["twin_clean"], clean),
            "total": drop(evaluations["twin_clean"], corrupted),
        }
    return {
        "schema": 1,
        "strategy": "etf_dml",
        "num_clients": number,
        "poisoned": list(range(poisoned)),
        "noisy": list(range(poisoned, poisoned + noisy)),
        "seed": 0,
        "rounds": 5,
        "evaluations": evaluations,
        "drops": drops,
        "clients": people,
        "attack_success_rate": 11.3 if poisoned else None,
        "detection": detection(people),
        "timing": {"data": 3.2, "train": 261.4, "aggregate": 20.5, "evaluate": 18.0},
        "engine": "inline",
        "device": "cpu",
    }


def full_report(
    number: int = 10,
    poisoned: int = 3,
    noisy: int = 1,
    twin: bool = True,
    classes: Sequence[str] = ("mel", "nv", "bcc"),
) -> dict[str, Any]:
    """The same with all that is absent from reports of earlier versions."""
    size = len(classes)
    found = report(number, poisoned, noisy, twin)
    whole = {
        "data": "skin",
        "images": [700, 200, 100],
        "image_size": 32,
        "classes": list(classes),
        "client_images": [[10 + client + k for k in range(size)] for client in range(number)],
        "model": {"name": "resnet50", "settings": {"head": "etf", "pretrained": False}},
        "partition": {"name": "dirichlet", "settings": {"alpha": 0.5}},
        "corruption": {"name": "gaussian_noise", "settings": {"std": 0.01}},
    }
    whole |= {"attack": {"name": "label_flip", "settings": {"rate": 1.0}}} if poisoned else {}
    whole |= {"noise": {"name": "clinical_noise", "settings": {}}} if noisy else {}
    names = [name for name in found["evaluations"] if name != "twin_corrupted"]
    drops = [drop(evaluation(48.1), evaluation(48.1 - 5 * severity)) for severity in range(1, 6)]
    return found | {
        "setup": whole,
        "details": {name: details(size, 20 + place) for place, name in enumerate(names)},
        "fairness": fairness(number, size, twin),
        "severity_drops": {f"corrupted_s{k + 1}": one for k, one in enumerate(drops)},
    }


def fairness(number: int, classes: int, twin: bool) -> dict[str, Any]:
    """Worst cases and spreads, those of the clean twin 5 points better."""

    def bounded(value: float) -> dict[str, Any]:
        return {"value": value, "ci95": [value - 4.0, value + 3.0]}

    def spread(level: float, member: int) -> dict[str, Any]:
        measures = {"worst": level, "std": 60 - level, "range": 70 - level}
        return {name: bounded(one) for name, one in measures.items()} | {"worst_member": member}

    members = {
        "site_accuracy": min(7, number - 1),
        "site_balanced_accuracy": 0,
        "class_recall": classes - 1,
    }
    levels = {"clean": 40.0, "corrupted": 30.0}
    levels |= {"twin_clean": 45.0, "twin_corrupted": 44.0} if twin else {}
    change = {"worst": bounded(11.1), "std": bounded(5.0), "range": bounded(5.0)}
    compared = ["corruption", *(["poisoning", "total"] if twin else [])]
    return {
        "min_images": 10,
        "sites_left_out": [],
        "classes_left_out": [],
        "evaluations": {
            name: {quantity: spread(level, member) for quantity, member in members.items()}
            for name, level in levels.items()
        },
        "drops": {name: dict.fromkeys(members, change) for name in compared},
    }


def details(classes: int, hits: int) -> dict[str, Any]:
    """What lies behind an evaluation: `hits` images of each class right, one each wrong."""
    confusion = [
        [hits if row == column else 1 for column in range(classes)] for row in range(classes)
    ]
    bins = [
        {"confidence": 55.0, "accuracy": 40.0, "n": 9},
        {"confidence": 96.0, "accuracy": 91.0, "n": 44},
    ]
    return {
        "confusion": confusion,
        "reliability": bins,
        "roc": [100 * min(1.0, place / 25) for place in range(51)],
    }


def rounds(
    number: int = 10, poisoned: int = 3, noisy: int = 1, total: int = 5, gain: float = 6.0
) -> list[RoundRecord]:
    """Rounds as they would be recorded."""
    out = []
    for step in range(total + 1):
        noise = torch.rand(number, generator=generator(step, "weights")).tolist()
        level = 14.0 + gain * step
        raw = [
            (0.5 + share) * (0.6**step if kind_of(client, poisoned, noisy) == "poisoned" else 1.0)
            for client, share in enumerate(noise)
        ]
        members = tuple(
            ClientRecord(c, 120 + 37 * c, w / sum(raw), {"loss": 2.0 / (step + 1)}, {"trust": w})
            for c, w in enumerate(raw)
        )
        metrics = {name: value for name, value in evaluation(level).items() if name != "n"}
        seconds = {"train": 40.0, "aggregate": 3.0, "evaluate": 2.5}
        out.append(RoundRecord(step, metrics, members if step else (), seconds=seconds))
    return out
