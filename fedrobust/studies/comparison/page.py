"""leaderboard.html: a whole comparison on one page that needs no network; each cell links to the
pages of its runs beside it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment
from markupsafe import Markup

from fedrobust.reporting.findings import interval_text, percent, true_minus
from fedrobust.reporting.web.figures import Figure
from fedrobust.reporting.web.page import make_environment
from fedrobust.reporting.web.picks import picks
from fedrobust.reporting.web.tables import table
from fedrobust.studies.comparison import leaderboard, page_tables
from fedrobust.studies.comparison.analysis import Ranking
from fedrobust.studies.comparison.page_figures import share_figures
from fedrobust.studies.comparison.results_table import ComparisonResults
from fedrobust.studies.comparison.summary import sections
from fedrobust.studies.comparison.weakness import Weakness, attack_weakness, weak_note
from fedrobust.utils.counting import format_count
from fedrobust.utils.files import write_text

PAGE_FILE: Final = "leaderboard.html"
TEMPLATE: Final = "leaderboard.html.md"  # of jinja; Flower packs no files of other endings
READING: Final = (
    "Combined drop from the clean twin in % of its value, mean over seeds, with 95 % interval: "
    "lower is better, negative is a gain. Darker: from 10, 25, 50 and 75 %. Mean and worst: over "
    "all attacks. Rules that share a letter of the group do not differ in their mean (paired "
    "bootstrap, Holm over all pairs, 5 %). F1: macro F1 under attack; a rule that reaches little "
    "has little to lose."
)


@dataclass(frozen=True)
class ShareSection:
    """What the page says about one number of poisoned clients. number: among the shares that can
    be picked; missing: why charts are."""

    number: int
    name: str
    title: str
    table: Markup
    note: str
    warnings: Sequence[str]
    figures: Sequence[Figure]
    missing: Sequence[str]
    pairs: Markup


def write_page(
    found: ComparisonResults,
    rankings: Mapping[int, Ranking],
    files: Sequence[str],
    folder: Path,
) -> Path:
    """Write leaderboard.html.

    Args:
        found: the results of the grid, at least one.
        rankings: by number of poisoned clients.
        files: names of those to link to.
        folder: of the comparison.

    Returns:
        The path of the page.
    """
    return write_text(folder / PAGE_FILE, render(found, rankings, files, folder) + "\n")


def render(
    found: ComparisonResults,
    rankings: Mapping[int, Ranking],
    files: Sequence[str],
    folder: Path,
) -> str:
    """The page as text. Everything that comes from outside is escaped."""
    counts = sorted(rankings, reverse=True)
    kinds = {
        page_tables.RULE: ("Rule", found.rules),
        page_tables.ATTACK: ("Attack", found.attacks),
        page_tables.SHARE: ("Poisoned", [_share_text(found, count) for count in counts]),
    }
    values: dict[str, Any] = {
        "headline": headline(found, rankings),
        "scope": f"{leaderboard.scope(found)} {leaderboard.interval_note(found)}",
        "warnings": leaderboard.warnings(found),
        "choices": picks(kinds),
        "reading": READING,
        "shares": [
            _section(found, rankings[count], count, number) for number, count in enumerate(counts)
        ],
        "further": [
            {"title": one.title, "note": one.note, "table": page_tables.section_table(found, one)}
            for one in sections(found)
        ],
        "marks": [line for line in leaderboard.uses_note(found) if line],
        "failed_rows": page_tables.failed_rows(found, folder),
        "files": files,
        "table": table,
    }
    return _environment().get_template(TEMPLATE).render(values)


@functools.cache
def _environment() -> Environment:
    return make_environment(Path(__file__).parent)


def _share_text(found: ComparisonResults, poisoned: int) -> str:
    """1 of 10 clients (10 %)"""
    clients = found.results[0].report.num_clients
    return (
        f"{poisoned} of {format_count(clients, 'client')} ({percent(100 * poisoned / clients, 0)})"
    )


def _section(
    found: ComparisonResults, ranking: Ranking, poisoned: int, number: int
) -> ShareSection:
    weakness = attack_weakness(found, ranking, poisoned)
    figures, missing = share_figures(found, ranking)
    return ShareSection(
        number,
        f"poisoned-{poisoned}",
        f"{_share_text(found, poisoned)} poisoned",
        page_tables.ranking_table(found, ranking, poisoned, weakness),
        weak_note(_with_true_minus(weakness), found.attacks),
        leaderboard.draws_warning(found, ranking),
        figures,
        missing,
        page_tables.pair_table(found, ranking),
    )


def _with_true_minus(weakness: Sequence[Weakness]) -> list[Weakness]:
    return [replace(one, reason=true_minus(one.reason)) for one in weakness]


def headline(found: ComparisonResults, rankings: Mapping[int, Ranking]) -> str:
    """Which rule loses least where most clients are poisoned, and which do not differ from it."""
    rules = format_count(len(found.rules), "rule")
    if not rankings:
        return f"{rules} without poisoned clients"
    poisoned = max(rankings)
    ranking = rankings[poisoned]
    where = f"With {_share_text(found, poisoned)} poisoned"
    if not ranking.letters:
        return f"{where}: no rule has a result under every attack"
    best = ranking.order[0]
    mean = ranking.means[best]
    interval = None if mean.low is None or mean.high is None else (mean.low, mean.high)
    attacks = found.attacks[0] if len(found.attacks) == 1 else f"{len(found.attacks)} attacks"
    first = (
        f"{where}, {found.rules[best]} loses least of {rules} under {attacks}: "
        f"{percent(mean.value)} {interval_text(interval)}"
    )
    return first + _others(found, ranking, best)


def _others(found: ComparisonResults, ranking: Ranking, best: int) -> str:
    """Which rules do not differ from the best one."""
    same = {rule for group in ranking.groups if best in group for rule in group} - {best}
    if len(ranking.letters) == 1:
        return ""
    if not same:
        return "; it differs from all others"
    names = [found.rules[rule] for rule in ranking.order if rule in same]
    if len(names) > 3:
        return f"; {len(names)} rules do not differ from it"
    verb = "does" if len(names) == 1 else "do"
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if names[:-1] else names)
    return f"; {listed} {verb} not differ from it"
