"""A made-up but realistic section `evasion` of a report."""

from __future__ import annotations

from typing import Any

from tests.helpers.reports import drop, evaluation

LEVELS = {
    ("oblivious", "none"): 12.0,
    ("oblivious", "mdda"): 33.0,
    ("bpda_eot", "mdda"): 15.5,
    ("differentiated", "mdda"): 13.1,
}


def section(
    eps_255: tuple[float | None, ...] = (1.0, 2.0, 4.0, 8.0), clients: int = 3
) -> dict[str, Any]:
    clean = {"none": evaluation(48.1), "mdda": evaluation(46.2)}
    attacks = [
        item(threat, purifier, eps, level, clean["none"])
        for (threat, purifier), level in LEVELS.items()
        for eps in eps_255
    ]
    return {
        "attack": "pgd",
        "purifier": "mdda",
        "images": 240,
        "clean": clean,
        "purifier_drop": drop(clean["none"], clean["mdda"]),
        "attacks": attacks,
        "clients": [client(number, eps_255) for number in range(clients)],
    }


def item(
    threat: str, purifier: str, eps: float | None, level: float, clean: dict[str, Any]
) -> dict[str, Any]:
    metrics = evaluation(level)
    share = 100 * (level - 12.0) / (48.1 - 12.0)
    return {
        "threat_model": threat,
        "eps_255": eps,
        "purifier": purifier,
        "linf": 0.02,
        "l2": 0.5,
        "metrics": metrics,
        "balanced_ci95": [level - 2.1, level + 2.2],
        "drop": drop(clean, metrics),
        "recovered": None
        if purifier == "none"
        else {"percent": share, "ci95": [share - 9, share + 9]},
    }


def client(number: int, eps_255: tuple[float | None, ...]) -> dict[str, Any]:
    attacks = [
        {
            "threat_model": "oblivious",
            "eps_255": eps,
            "purifier": name,
            "metrics": evaluation(20.0 + number, 31),
            "combined_drop": 55.0,
        }
        for eps in eps_255
        for name in ("none", "mdda")
    ]
    kind = "poisoned" if number == 1 else "clean"
    return {
        "id": number,
        "kind": kind,
        "clean": {"none": evaluation(44.0, 31), "mdda": evaluation(41.0, 31)},
        "attacks": attacks,
    }
