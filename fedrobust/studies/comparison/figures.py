"""Figures of a comparison, by file name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from fedrobust.evaluation.statistics import DropTable, Estimate
from fedrobust.studies.comparison.analysis import drop_table
from fedrobust.studies.comparison.grid import NOBODY
from fedrobust.studies.comparison.plots import Line, plot_heatmap, plot_lines, plot_rule_influence
from fedrobust.studies.comparison.results_table import GRADE, ComparisonResults

DROP = "combined drop, % of the clean twin"


def draw_figures(found: ComparisonResults, folder: Path) -> list[str]:
    """The file names of the pictures that this grid has something for: none where no client was
    ever poisoned."""
    if not found.counts or not found.results:
        return []
    names = [_heatmap(found, folder), _shares(found, folder), _influence(found, folder)]
    panels = {**_attack_severities(found), **_test_severities(found)}
    if panels:
        xlabels = ["severity"] * len(panels)
        names.append(
            plot_lines(panels, found.rules, xlabels, DROP, folder / "drop_by_severity.png").name
        )
    return names


def _heatmap(found: ComparisonResults, folder: Path) -> str:
    boards = {f"{poisoned} poisoned": found.poisoning(poisoned) for poisoned in found.counts}
    return plot_heatmap(boards, found.rules, found.attacks, folder / "heatmap.png").name


def _clients(found: ComparisonResults) -> int:
    return found.results[0].report.num_clients


def _shares(found: ComparisonResults, folder: Path) -> str:
    """Drop against the share of poisoned clients; the cells without any are the same in all
    panels."""
    boards: dict[int, DropTable] = {
        poisoned: found.poisoning(poisoned) for poisoned in found.counts
    }
    nobody = (
        found.poisoning(0)
        if any(one.cell.contamination == NOBODY for one in found.results)
        else None
    )
    panels: dict[str, dict[str, Line]] = {}
    for attack, title in enumerate(found.attacks):
        panels[title] = {}
        for rule, name in enumerate(found.rules):
            line = [] if nobody is None else [(0.0, nobody.one(rule, 0))]
            panels[title][name] = [
                *line,
                *(
                    (100 * count / _clients(found), one.one(rule, attack))
                    for count, one in boards.items()
                ),
            ]
    return plot_lines(
        panels,
        found.rules,
        ["poisoned clients, %"] * len(panels),
        DROP,
        folder / "drop_by_share.png",
    ).name


def _attack_severities(found: ComparisonResults) -> dict[str, Mapping[str, Line]]:
    """Attacks of which the grid holds several severities, where most clients are poisoned."""
    panels: dict[str, Mapping[str, Line]] = {}
    for family in found.severities():
        judged = found.poisoning(found.most, list(family.values()))
        lines = {
            name: [(x, judged.one(rule, place)) for place, x in enumerate(family)]
            for rule, name in enumerate(found.rules)
        }
        panels[" / ".join(family.values())] = lines
    return panels


def _test_severities(found: ComparisonResults) -> dict[str, Mapping[str, Line]]:
    """The graded corruption of the test images, mean over attacks, where most clients are
    poisoned."""
    steps = [
        (0.0, found.poisoning(found.most)),
        *((float(g.removeprefix(GRADE)), found.corrupted(found.most, g)) for g in found.grades()),
    ]
    if len(steps) == 1:
        return {}
    lines = {
        name: [(x, judged.mean(rule)) for x, judged in steps]
        for rule, name in enumerate(found.rules)
    }
    return {"corrupted test images": lines}


def _influence(found: ComparisonResults, folder: Path) -> str:
    """The replicates resample seeds only: a weight hangs on no test image."""
    panels: dict[str, dict[str, Line]] = {attack: {} for attack in found.attacks}
    for attack in found.attacks:
        for rule in found.rules:
            panels[attack][rule] = _weights(found, rule, attack)
    return plot_rule_influence(
        panels, found.rules, found.most / _clients(found), folder / "influence.png"
    ).name


def _weights(found: ComparisonResults, rule: str, attack: str) -> Line:
    """(round, mean over seeds of the poisoned clients' weight)"""
    by_seed = {}
    for seed in found.seeds:
        result = found.result(rule, attack, found.most, seed)
        by_seed[seed] = {} if result is None else dict(result.poisoned_weights)
    rounds = sorted({number for weights in by_seed.values() for number in weights})

    def find(number: int, _: str, seed: int) -> tuple[float | None, torch.Tensor]:
        weight = by_seed[seed].get(number)
        return weight, torch.full(
            (found.draws,), torch.nan if weight is None else weight, dtype=torch.float64
        )

    if not rounds:
        return []
    judged = drop_table((rounds, [attack], found.seeds), find, found.draws)
    alone = len(found.seeds) == 1
    estimates = [judged.one(place, 0) for place in range(len(rounds))]
    return [
        (number, Estimate(one.value) if alone else one)
        for number, one in zip(rounds, estimates, strict=True)
    ]
