"""The charts of a comparison's page: average ranks and mean drops."""

from __future__ import annotations

from typing import Final

from fedrobust.evaluation.statistics import Estimate
from fedrobust.reporting.findings import interval_text, percent
from fedrobust.reporting.web.bars import Bar, BarRow, bar_chart
from fedrobust.reporting.web.figures import Figure, Key
from fedrobust.reporting.web.ranks import Ranked, rank_chart
from fedrobust.reporting.web.scales import axis
from fedrobust.studies.comparison.analysis import AverageRanks, Ranking, average_ranks
from fedrobust.studies.comparison.results_table import ComparisonResults
from fedrobust.studies.comparison.summary import mark_rule
from fedrobust.utils.counting import format_count

FEW_BLOCKS: Final = 10  # up to which ranks are not to be relied on (Demsar 2006, section 3.2.2)
MEAN, WORST = ("mean", "s0"), ("worst", "s1")  # key and colour


def share_figures(
    found: ComparisonResults, ranking: Ranking
) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """The charts of one number of poisoned clients, and why others are missing."""
    ranked = average_ranks(ranking.table, list(ranking.letters))
    reason = _why_no_ranks(ranked)
    figures = () if reason else (rank_figure(found, ranking, ranked),)
    if ranking.letters:
        figures = (*figures, drop_figure(found, ranking))
    return figures, (reason,) if reason else ()


def _why_no_ranks(ranked: AverageRanks) -> str:
    if len(ranked.means) < 2:
        return "No critical-difference diagram: fewer than two rules have all attacks."
    if ranked.blocks < 2:
        return (
            "No critical-difference diagram: average ranks need two or more blocks (an attack with "
            f"a seed that all rules have); there {'is 1' if ranked.blocks else 'are none'}."
        )
    return ""


def rank_figure(found: ComparisonResults, ranking: Ranking, ranked: AverageRanks) -> Figure:
    """The critical-difference diagram."""
    rules = list(ranked.means)
    places = {rule: place for place, rule in enumerate(rules)}
    blocks = format_count(ranked.blocks, "block")
    names = [
        Ranked(
            mark_rule(found, rule),
            ranked.means[rule],
            f"{mark_rule(found, rule)}\naverage rank {ranked.means[rule]:.2f} over {blocks}\n"
            f"group {ranking.letters[rule]}",
        )
        for rule in rules
    ]
    groups = [[places[rule] for rule in group] for group in ranking.groups if len(group) > 1]
    chart = rank_chart("Average ranks", names, groups, "average rank (1: the lowest drop)")
    return Figure("Critical-difference diagram", chart, " ".join(_rank_notes(ranked, blocks)))


def _rank_notes(ranked: AverageRanks, blocks: str) -> list[str]:
    notes = [
        f"Ranks by drop within {blocks} (an attack with a seed), averaged. A bar joins rules that "
        "do not differ in their mean drop (dots: its members; paired bootstrap, Holm over all "
        "pairs, 5 %): the tests of the table, not those of ranks."
    ]
    if ranked.blocks <= FEW_BLOCKS:
        notes.append(
            f"{blocks} are few: average ranks of up to {FEW_BLOCKS} are rough, and those of "
            "one attack are not independent."
        )
    if ranked.lost:
        notes.append(f"Left out, since a rule lacks it: {format_count(ranked.lost, 'block')}.")
    return notes


def drop_figure(found: ComparisonResults, ranking: Ranking) -> Figure:
    """Mean and worst case of every rule with their intervals."""
    rows, values = [], []
    for rule in ranking.letters:
        name = mark_rule(found, rule)
        pair = [(MEAN, ranking.means[rule]), (WORST, ranking.table.worst(rule))]
        rows.append(BarRow(name, tuple(_bar(look, one, name) for look, one in pair)))
        values += [end for _, one in pair for end in (one.value, one.low, one.high)]
    scale = axis(values, "combined drop (% of the clean twin)", include=(0.0,))
    keys = (Key(*MEAN, "mean over attacks"), Key(*WORST, "worst attack"))
    chart = bar_chart("Mean and worst drop of each rule", rows, scale)
    return Figure("Combined drop (%)", chart, "Lower is better; lines: 95 % intervals.", keys)


def _bar(look: tuple[str, str], one: Estimate, name: str) -> Bar:
    interval = None if one.low is None or one.high is None else (one.low, one.high)
    hover = f"{name}, {look[0]}: {percent(one.value)} {interval_text(interval)}"
    return Bar(*look, one.value, interval, hover)
