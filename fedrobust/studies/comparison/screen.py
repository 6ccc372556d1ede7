"""The ranking on the screen at the end of a comparison: what leaderboard.md says first."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedrobust.evaluation.statistics import Estimate
from fedrobust.reporting.console.tables import new_table
from fedrobust.reporting.text import format_number
from fedrobust.studies.comparison.analysis import Ranking
from fedrobust.studies.comparison.leaderboard import uses_note
from fedrobust.studies.comparison.results_table import ComparisonResults
from fedrobust.studies.comparison.summary import format_estimate, mark_rule
from fedrobust.utils.counting import format_count

LOWER_IS_BETTER = (
    "Combined drop from the clean twin in %, mean over seeds: lower is better. Mean: over attacks, "
    "with its 95 % interval. Worst: the largest of the attacks. Rules that share a letter of the "
    "group do not differ."
)


def ranking_tables(found: ComparisonResults, rankings: Mapping[int, Ranking]) -> RenderableType:
    """A table for each number of poisoned clients, the largest first, the best rule on top; without
    poisoned clients the performance of the clean twins. rankings: by that number."""
    tables: list[RenderableType] = [
        _ranking_table(found, rankings[poisoned], poisoned)
        for poisoned in sorted(rankings, reverse=True)
    ]
    notes = [LOWER_IS_BETTER] if tables else []
    notes += [line for line in uses_note(found) if line]
    return Group(*(tables or [_clean_table(found)]), *(Text(line, style="dim") for line in notes))


def read_ranking_tables(frame: pd.DataFrame) -> RenderableType:
    """The same of a comparison that is finished. frame: `leaderboard.ranking_frame`, not empty."""
    tables: list[RenderableType] = []
    facts = ["poisoned", "place", "rule", "mean", "low", "high", "worst", "group"]
    attacks = [name for name in frame.columns if name not in facts]
    for poisoned in sorted(frame["poisoned"].unique(), reverse=True):
        title = f"Ranking under {format_count(int(poisoned), 'poisoned client')}"
        table = new_table(title, ["Rule", *attacks, "Mean", "Worst", "Group"])
        for _, row in frame[frame["poisoned"] == poisoned].iterrows():
            known = row.where(row.notna(), None)
            mean = Estimate(known["mean"], known["low"], known["high"])
            table.add_row(
                str(row["rule"]),
                *(format_number(known[attack]) for attack in attacks),
                format_estimate(mean),
                format_number(known["worst"]),
                str(known["group"] or "-"),
            )
        tables.append(table)
    return Group(*tables, Text(LOWER_IS_BETTER, style="dim"))


def _ranking_table(found: ComparisonResults, ranking: Ranking, poisoned: int) -> Table:
    title = f"Ranking under {format_count(poisoned, 'poisoned client')}"
    table = new_table(title, ["Rule", *found.attacks, "Mean", "Worst", "Group"])
    for rule in ranking.order:
        attacks = [_number(ranking.table.one(rule, place)) for place in range(len(found.attacks))]
        table.add_row(
            mark_rule(found, rule),
            *attacks,
            format_estimate(ranking.means[rule]),
            _number(ranking.table.worst(rule)),
            ranking.letters.get(rule, "-"),
        )
    return table


def _clean_table(found: ComparisonResults) -> Table:
    table, measured = new_table("Without contamination", ["Rule", "Macro F1"]), found.clean_f1()
    for rule in range(len(found.rules)):
        table.add_row(mark_rule(found, rule), format_estimate(measured.one(rule, 0)))
    return table


def _number(one: Estimate) -> str:
    return format_number(one.value)
