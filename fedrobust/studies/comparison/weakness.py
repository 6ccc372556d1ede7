"""Attacks that cost plain averaging so little that withstanding them says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrobust.reporting.text import format_number
from fedrobust.studies.comparison.analysis import Ranking
from fedrobust.studies.comparison.results_table import ComparisonResults

BASELINE = "fedavg"
LEAST_SUCCESS = 50.0  # % of triggered test images, below which a backdoor is weak


@dataclass(frozen=True, slots=True)
class Weakness:
    """weak: None where it is unknown; reason: the measured value and the limit, or what is
    missing."""

    weak: bool | None
    reason: str


def attack_weakness(found: ComparisonResults, ranking: Ranking, poisoned: int) -> list[Weakness]:
    """Of each attack in the order of the grid, with so many poisoned clients."""
    if BASELINE not in found.rules:
        return [Weakness(None, f"{BASELINE} is not among the rules")] * len(found.attacks)
    rule = found.rules.index(BASELINE)
    judged = []
    for place, attack in enumerate(found.attacks):
        rate = found.success_rate(BASELINE, attack, poisoned)
        if rate is not None:
            judged.append(_judge("success rate against", rate, LEAST_SUCCESS))
        else:
            drop = ranking.table.one(rule, place).value
            judged.append(_judge("combined drop of", drop, found.weak_below))
    return judged


def _judge(what: str, value: float | None, limit: float) -> Weakness:
    if value is None:
        return Weakness(None, f"{BASELINE} has no result under it")
    weak = value < limit
    side = "below" if weak else "not below"
    shown = f"{what} {BASELINE} {format_number(value)} %"
    return Weakness(weak, f"{shown}, {side} {limit:g} %")


def weak_note(judged: Sequence[Weakness], attacks: Sequence[str]) -> str:
    """Which attacks are weak, and of which it is unknown, with the reasons."""
    named = list(zip(attacks, judged, strict=True))
    weak = [f"{attack} ({one.reason})" for attack, one in named if one.weak]
    lines = [
        f"Weak attacks, which say little about a defence: {'; '.join(weak)}."
        if weak
        else "No attack is known to be weak."
    ]
    if unknown := [attack for attack, one in named if one.weak is None]:
        reasons = dict.fromkeys(one.reason for _, one in named if one.weak is None)
        lines.append(f"Unknown of {', '.join(unknown)}: {'; '.join(reasons)}.")
    return " ".join(lines)
