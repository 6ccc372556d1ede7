"""leaderboard.md and differences.csv: who loses how much, who differs from whom, at what cost, and
what failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from fedrobust.reporting.findings import least_learned
from fedrobust.studies.comparison.analysis import Ranking, enough_draws, rank
from fedrobust.studies.comparison.cell_results import Result
from fedrobust.studies.comparison.results_table import ComparisonResults
from fedrobust.studies.comparison.summary import ResultTable, drop_table, plain_cells, sections
from fedrobust.studies.comparison.weakness import attack_weakness, weak_note
from fedrobust.utils.counting import format_count

NAMES = ("rule", "other", "poisoned", "difference", "low", "high", "p", "p_holm")


def leaderboard(
    found: ComparisonResults, rankings: Mapping[int, Ranking], pictures: Sequence[str]
) -> str:
    """The whole page. rankings: by number of poisoned clients; pictures: their file names."""
    parts = [_heading(found)]
    for poisoned in sorted(rankings, reverse=True):
        parts += [drops(found, rankings[poisoned], poisoned)]
    parts += [*map(_section_text, sections(found)), *_failures(found)]
    parts += (
        ["\n".join(["## Pictures", "", *(f"![{name}]({name})" for name in pictures)])]
        if pictures
        else []
    )
    return "\n\n".join(parts) + "\n"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, all others to the right."""
    lines = [columns, [":--", *("--:" for _ in columns[1:])], *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def scope(found: ComparisonResults) -> str:
    """What was compared, in a sentence, and how much of it is finished."""
    seeds = ", ".join(str(seed) for seed in found.seeds)
    return (
        f"{format_count(len(found.rules), 'rule')}, {format_count(len(found.attacks), 'attack')}, "
        "poisoned clients: "
        f"{', '.join(map(str, found.counts)) or 'none'}, seeds: {seeds}. Finished: "
        f"{len(found.results)} of "
        f"{format_count(len(found.results) + len(found.failed), 'run')}."
    )


def interval_note(found: ComparisonResults) -> str:
    """What the intervals cover."""
    covered = "seeds and test images." if len(found.seeds) > 1 else "test images only."
    return (
        f"In brackets: 95 % intervals from {found.draws} paired bootstrap replicates over {covered}"
    )


def warnings(found: ComparisonResults) -> list[str]:
    """What lowers the worth of the whole comparison."""
    lines = [] if len(found.seeds) > 1 else ["One seed says nothing about other seeds."]
    programs = {one.program for one in found.results}
    if len(programs) > 1:
        lines.append(
            f"The runs were made by {len(programs)} versions of the program; delete the older "
            "ones and run again."
        )
    return lines + _not_learned(found)


def _not_learned(found: ComparisonResults) -> list[str]:
    """Which rules' clean twins are near chance, if any."""
    rules = {}
    for rule in found.rules:
        twins = found.twins(rule)
        near = sum(_is_near_chance(one) for one in twins)
        if near:
            rules[rule] = f"{rule} ({near} of {format_count(len(twins), 'seed')})"
    if not rules:
        return []
    return [
        f"The clean twins of {', '.join(rules.values())} have not learned: their balanced accuracy "
        "on the clean test images is not even a tenth of the way from chance to 100 %. Drops from "
        "such models say little; train longer (rounds, client.epochs)."
    ]


def _is_near_chance(one: Result) -> bool:
    setup, reached = one.report.setup, one.report.evaluations["twin_clean"].balanced_accuracy
    if setup is None or reached is None:
        return False
    return reached < least_learned(len(setup.classes))


def _heading(found: ComparisonResults) -> str:
    """Heading: the compared rules and attacks, and how to read the tables."""
    bold = [f"**{line}**" for line in warnings(found)]
    return "\n\n".join(["# Leaderboard", scope(found), interval_note(found), *bold])


def _section_text(section: ResultTable) -> str:
    table = markdown_table(*plain_cells(section.rows))
    return "\n\n".join([f"## {section.title}", section.note, table])


def draws_warning(found: ComparisonResults, ranking: Ranking) -> list[str]:
    """That there are too few replicates for any difference to be found, if so."""
    if enough_draws(len(ranking.differences), found.draws):
        return []
    return [
        f"{format_count(found.draws, 'replicate is', 'replicates are')} too few for "
        f"{format_count(len(ranking.differences), 'pair')}: no difference can be found; "
        "raise draws."
    ]


def drops(found: ComparisonResults, ranking: Ranking, poisoned: int) -> str:
    """Rules by attacks, their mean and worst case, the distance to the first rule, and the
    groups."""
    lines = [
        _section_text(drop_table(found, ranking, poisoned)),
        "",
        (
            "Rules that share a letter do not differ in their mean (paired bootstrap, "
            "Holm over all pairs, 5 %)."
        ),
    ]
    lines += ["", weak_note(attack_weakness(found, ranking, poisoned), found.attacks)]
    for line in draws_warning(found, ranking):
        lines += ["", f"**{line}**"]
    return "\n".join([*lines, *uses_note(found)])


def uses_note(found: ComparisonResults) -> list[str]:
    """Meaning of the signs, and the rules that use proxy images without being marked."""
    lines = (
        ["", "† uses the server's labelled root images; ‡ uses the server's proxy images."]
        if any(found.uses.values())
        else []
    )
    if any(one.cell.settings.server.batchnorm == "recalibrate" for one in found.results):
        lines += [
            "",
            (
                "With server.batchnorm=recalibrate every rule's BatchNorm statistics come "
                "from the proxy images."
            ),
        ]
    return lines


def _failures(found: ComparisonResults) -> list[str]:
    """Cells without a result, and why."""
    if not found.failed:
        return []
    rows = [[str(cell), reason] for cell, reason in found.failed.items()]
    return ["\n".join(["## Failed", "", markdown_table(["Run", "Reason"], rows)])]


def difference_table(found: ComparisonResults, rankings: Mapping[int, Ranking]) -> pd.DataFrame:
    """Every pair of rules: the mean over attacks of `rule` minus that of `other`, in percentage
    points of drop."""
    rows: list[dict[str, Any]] = []
    for poisoned, ranking in sorted(rankings.items()):
        for pair, one in ranking.differences.items():
            names = {
                "rule": found.rules[pair[0]],
                "other": found.rules[pair[1]],
                "poisoned": poisoned,
            }
            numbers = {
                "difference": one.value,
                "low": one.low,
                "high": one.high,
                "p": one.p,
                "p_holm": ranking.adjusted.get(pair),
            }
            rows.append({**names, **numbers})
    return pd.DataFrame(rows, columns=list(NAMES))


def ranking_frame(found: ComparisonResults, rankings: Mapping[int, Ranking]) -> pd.DataFrame:
    """Every rule under every number of poisoned clients, the best first: combined poisoning drop in
    %, by attack and as the mean over attacks with its 95 % interval."""
    rows: list[dict[str, Any]] = []
    for poisoned, ranking in sorted(rankings.items()):
        for place, rule in enumerate(ranking.order, 1):
            mean = ranking.means[rule]
            attacks = {
                attack: ranking.table.one(rule, number).value
                for number, attack in enumerate(found.attacks)
            }
            rows.append(
                {
                    "poisoned": poisoned,
                    "place": place,
                    "rule": found.rules[rule],
                    "mean": mean.value,
                    "low": mean.low,
                    "high": mean.high,
                    "worst": ranking.table.worst(rule).value,
                    "group": ranking.letters.get(rule),
                    **attacks,
                }
            )
    return pd.DataFrame(rows)


def rankings_of(found: ComparisonResults) -> dict[int, Ranking]:
    """A ranking for every number of poisoned clients."""
    return {poisoned: rank(found.poisoning(poisoned)) for poisoned in found.counts}
