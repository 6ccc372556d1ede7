"""contribution.md and the table on the screen: who helps, who harms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from fedrobust.reporting.console.tables import new_table
from fedrobust.reporting.text import format_number
from fedrobust.studies.comparison.leaderboard import markdown_table
from fedrobust.studies.comparison.summary import format_estimate
from fedrobust.studies.contribution.plan import Plan
from fedrobust.studies.contribution.results import (
    DROP,
    PERFORMANCE,
    KindContribution,
    SeedContributions,
)
from fedrobust.utils.counting import format_count

HEADS = ("Game", "Kind", "Shapley value", "leave-one-out")
VALUES = (["shapley", "low", "high"], ["leave_one_out", "leave_low", "leave_high"])
MEANING = (
    "performance: what a hospital adds to the metric of the trained model, in percentage points "
    "(above 0: it helps); drop: what it adds to the combined drop from the clean twin of the same "
    "coalition (above 0: it harms)"
)


def contribution_table(kinds: Sequence[KindContribution]) -> RenderableType:
    """The mean contribution of a hospital of each kind."""
    table = new_table("Contribution of a hospital, percentage points", HEADS, words=2)
    for row in _kind_rows(kinds):
        table.add_row(*row)
    return Group(table, Text(MEANING, style="dim"))


def contribution_page(
    plan: Plan,
    found: Mapping[int, SeedContributions],
    frame: pd.DataFrame,
    kinds: Sequence[KindContribution],
    pictures: Sequence[str],
) -> str:
    """The whole page.

    Args:
        plan: of the study.
        found: by seed.
        frame: of `contribution_frame`.
        kinds: of `by_kind`.
        pictures: names of their files.
    """
    parts = [
        "# Contribution of each hospital",
        _scope(plan, found),
        f"{MEANING[0].upper()}{MEANING[1:]}. Every coalition was trained anew, none aggregated "
        "from updates of the whole federation.",
        markdown_table(HEADS, _kind_rows(kinds)),
        *(f"![{name}]({name})" for name in pictures),
    ]
    for seed in found:
        parts += [f"## Seed {seed}", _values(plan, found[seed]), _seed_table(frame, seed)]
    return "\n\n".join(parts) + "\n"


def _kind_rows(kinds: Sequence[KindContribution]) -> list[list[str]]:
    return [
        [one.game, one.kind, format_estimate(one.shapley), format_estimate(one.leave_one_out)]
        for one in kinds
    ]


def _scope(plan: Plan, found: Mapping[int, SeedContributions]) -> str:
    seeds = ", ".join(map(str, found)) or "none"
    trained = format_count(sum(seed in found for seed, _ in plan.cells), "training")
    if plan.orders:
        orders = len(next(iter(plan.orders.values())))
        hospitals = format_count(plan.num_clients, "hospital")
        how = f"{orders} sampled orders of {hospitals} a seed (pairs of reverses)"
        covered = "test images and orders"
    else:
        how = f"all coalitions of {format_count(plan.num_clients, 'hospital')}"
        covered = "test images"
    over = f"seeds, {covered}" if len(found) > 1 else covered
    return (
        f"Seeds: {seeds}. {trained}: {how}. In brackets: 95 % intervals over {over}, "
        f"{format_count(plan.grid.draws, 'replicate')}."
    )


def _values(plan: Plan, one: SeedContributions) -> str:
    (nobody, everybody), (_, drop) = one.values[:, :, 0].tolist()
    return (
        f"{plan.metric.replace('_', ' ').capitalize()} of the untrained model "
        f"{format_number(nobody)} %, of all hospitals together {format_number(everybody)} %; "
        f"combined drop {format_number(drop)} %. Shapley values add up to the differences."
    )


def _seed_table(frame: pd.DataFrame, seed: int) -> str:
    rows = []
    part = frame[frame.seed == seed]
    for client in part.client.unique():
        mine = part[part.client == client].set_index("game")
        first = mine.iloc[0]
        name = f"{client} {first.sites or ''}".rstrip()
        cells = [
            _cell(*mine.loc[game, columns]) for game in (PERFORMANCE, DROP) for columns in VALUES
        ]
        rows.append([name, first.kind, str(first.num_examples), *cells])
    heads = ["Hospital", "Kind", "Images"]
    heads += [f"{game}: {what}" for game in (PERFORMANCE, DROP) for what in ("Shapley", "left out")]
    return markdown_table(heads, rows)


def _cell(middle: float, low: float, high: float) -> str:
    ends = "" if pd.isna(low) else f" [{format_number(low)}, {format_number(high)}]"
    return ("-" if pd.isna(middle) else format_number(middle)) + ends
