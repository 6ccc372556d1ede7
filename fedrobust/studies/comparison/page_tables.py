"""The tables of a comparison's page."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import quote

from markupsafe import Markup

from fedrobust.evaluation.statistics import LEVEL, Estimate
from fedrobust.reporting.filenames import PAGE
from fedrobust.reporting.findings import interval_text, percent, true_minus
from fedrobust.reporting.text import format_number
from fedrobust.reporting.web.markup import element, join, shorten
from fedrobust.reporting.web.tables import Cell, table
from fedrobust.studies.comparison.analysis import Ranking
from fedrobust.studies.comparison.cell_results import Result
from fedrobust.studies.comparison.executor import CELLS
from fedrobust.studies.comparison.pool import LOG
from fedrobust.studies.comparison.results_table import ComparisonResults, drop_between
from fedrobust.studies.comparison.summary import (
    Entry,
    ResultTable,
    attacked_f1,
    mark_rule,
    plain_cells,
)
from fedrobust.studies.comparison.weakness import Weakness

SHADES: Final = (10.0, 25.0, 50.0, 75.0)  # % of combined drop from which a cell is darker
LONGEST_REASON: Final = 90  # signs of it in a cell; the table of failures has all
RULE, ATTACK, SHARE = "rule", "attack", "share"  # kinds of what can be picked
PAIR_HEADS: Final = (
    "Rule",
    "Other",
    "Differ",
    "Difference (points)",
    "95 % interval",
    "p",
    "p after Holm",
)


class CellLinks:
    """Links to the pages of the cells, where they have one, and reasons of those that failed."""

    def __init__(self, found: ComparisonResults) -> None:
        self._found = found

    @cached_property
    def _failed(self) -> dict[tuple[str, str, int, int], str]:
        return {
            (cell.strategy, cell.contamination, cell.poisoned, cell.seed): reason
            for cell, reason in self._found.failed.items()
        }

    def value(self, one: Estimate, rule: str, attack: str, poisoned: int) -> Markup:
        """The drop with its interval; links to the runs of all seeds; what failed."""
        cells = self._found.under(rule, attack, poisoned)
        shown: Markup | str = _number(one.value)
        runs = Markup("")
        if len(self._found.seeds) == 1 and cells:
            shown = _link(cells[0], shown)
        elif cells:
            links = [_link(cell, str(cell.cell.seed), _seed_text(cell)) for cell in cells]
            runs = element("span", {"class": "runs"}, "seed ", Markup(" ").join(links))
        problems = [
            element("span", {"class": "problem"}, f"seed {seed} failed: ", _short(reason))
            for seed in self._found.seeds
            if (reason := self._failed.get((rule, attack, poisoned, seed))) is not None
        ]
        return join([element("span", {}, shown), _range(one), runs, *problems])


def _short(reason: str) -> Markup:
    return element("a", {"href": "#failed", "title": reason}, shorten(reason, LONGEST_REASON))


def _seed_text(cell: Result) -> str:
    return f"seed {cell.cell.seed}: {percent(drop_between(cell, 'clean'))}"


def _link(cell: Result, words: str, hover: str | None = None) -> Markup:
    if not (cell.folder / PAGE).is_file():
        return element("span", {"title": hover}, words)
    return element("a", {"href": cell_path(cell.folder.name, PAGE), "title": hover}, words)


def cell_path(folder: str, name: str) -> str:
    """The address of a file of a cell, relative to the page."""
    return quote(f"{CELLS}/{folder}/{name}")


def _range(one: Estimate) -> Markup:
    if one.low is None or one.high is None:
        return Markup("")
    return element("span", {"class": "range"}, interval_text((one.low, one.high)))


def _number(value: float | None) -> str:
    return true_minus(format_number(value))


def _sort(value: float | None) -> float:
    return math.nan if value is None else value


def ranking_table(
    found: ComparisonResults, ranking: Ranking, poisoned: int, weakness: Sequence[Weakness]
) -> Markup:
    """Rules by attacks, best rule first."""
    links = CellLinks(found)
    heads = [_attack_head(found, place, one) for place, one in enumerate(weakness)]
    columns: list[Cell | str] = [
        "Rule",
        *heads,
        "Mean (%)",
        "Worst attack (%)",
        "Group",
        "F1 under attack (%)",
    ]
    rows: list[Sequence[Cell | str]] = []
    for rule in ranking.order:
        attacks = []
        for place, attack in enumerate(found.attacks):
            one = ranking.table.one(rule, place)
            words = links.value(one, found.rules[rule], attack, poisoned)
            attacks.append(Cell(words, _sort(one.value), shade(one.value), (ATTACK, place)))
        kept = attacked_f1(found, rule, poisoned)
        rows.append(
            [
                Cell(mark_rule(found, rule), pick=(RULE, rule)),
                *attacks,
                _estimate_cell(ranking.means[rule], "sum"),
                _estimate_cell(ranking.table.worst(rule)),
                ranking.letters.get(rule, "-"),
                Cell(_number(kept), _sort(kept)),
            ]
        )
    return table(columns, rows)


def shade(drop: float | None) -> str:
    """The class that colours a cell by its drop; empty below the first limit."""
    number = sum(drop >= limit for limit in SHADES) if drop is not None else 0
    return f"d{number}" if number else ""


def _attack_head(found: ComparisonResults, place: int, one: Weakness) -> Cell:
    badge = Markup("")
    if one.weak or one.weak is None:
        words = "weak" if one.weak else "weak?"
        badge = element("span", {"class": "badge", "title": true_minus(one.reason)}, words)
    return Cell(join([element("span", {}, found.attacks[place]), badge]), pick=(ATTACK, place))


def _estimate_cell(one: Estimate, look: str = "") -> Cell:
    words = join([element("span", {}, _number(one.value)), _range(one)])
    return Cell(words, _sort(one.value), look)


def pair_table(found: ComparisonResults, ranking: Ranking) -> Markup:
    """Every pair of rules; empty where there is none."""
    rows: list[Sequence[Cell | str]] = []
    for (one, other), difference in ranking.differences.items():
        p = ranking.adjusted.get((one, other))
        interval = None if difference.low is None else (difference.low, difference.high or 0.0)
        rows.append(
            [
                Cell(mark_rule(found, one), pick=(RULE, one)),
                mark_rule(found, other),
                "-" if p is None else "yes" if p < LEVEL else "no",
                Cell(_number(difference.value), _sort(difference.value)),
                interval_text(interval),
                Cell(_p_text(difference.p), _sort(difference.p)),
                Cell(_p_text(p), _sort(p)),
            ]
        )
    return table(PAIR_HEADS, rows, words=3) if rows else Markup("")


def _p_text(p: float | None) -> str:
    return "-" if p is None else f"{p:.2g}"


def section_table(found: ComparisonResults, section: ResultTable) -> Markup:
    """A table of leaderboard.md, sortable by its numbers."""
    heads, cells = plain_cells(section.rows)
    rows = [
        [
            Cell(name, pick=(RULE, found.rules.index(row.rule))),
            *(
                Cell(text if isinstance(one, str) else true_minus(text), _entry_number(one))
                for text, (_, one) in zip(texts, row.entries, strict=True)
            ),
        ]
        for row, (name, *texts) in zip(section.rows, cells, strict=True)
    ]
    return table(heads, rows)


def _entry_number(entry: Entry) -> float:
    """What a cell is sorted by."""
    if not isinstance(entry, str):
        return _sort(entry.estimate.value)
    found = re.match(r"-?[0-9]+(\.[0-9]+)?", entry)
    return float(found[0]) if found else math.nan


def failed_rows(found: ComparisonResults, folder: Path) -> list[list[Cell | str]]:
    """Run, reason, and a link to its screen where there is one. folder: of the page."""
    return [
        [str(cell), reason, _log_link(folder, cell.folder)] for cell, reason in found.failed.items()
    ]


def _log_link(folder: Path, cell: str) -> Cell:
    if not (folder / CELLS / cell / LOG).is_file():
        return Cell("-")
    return Cell(element("a", {"href": cell_path(cell, LOG)}, LOG))
