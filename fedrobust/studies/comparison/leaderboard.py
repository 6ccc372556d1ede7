"""leaderboard.md and differences.csv: who loses how much, who differs from whom, at what cost, and
what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fedrobust.evaluation.fairness import RECALL
from fedrobust.evaluation.statistics import Estimate
from fedrobust.reporting.text import format_number
from fedrobust.studies.comparison.analysis import Ranking, enough_draws, rank
from fedrobust.studies.comparison.cell_results import Result
from fedrobust.studies.comparison.results_table import ComparisonResults, mean_of_known
from fedrobust.studies.comparison.weakness import BASELINE, attack_weakness, weak_note
from fedrobust.utils.counting import format_count

MEGABYTE = 1e6
NAMES = ("rule", "other", "poisoned", "difference", "low", "high", "p", "p_holm")


@dataclass(frozen=True)
class Section:
    """A table of all rules; the first column names the rule."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


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


def value(one: Estimate) -> str:
    """12.3 [10.1, 14.8]"""
    if one.value is None:
        return "-"
    return format_number(one.value) + (
        "" if one.low is None else f" [{format_number(one.low)}, {format_number(one.high)}]"
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
    return lines


def _heading(found: ComparisonResults) -> str:
    """Heading: the compared rules and attacks, and how to read the tables."""
    bold = [f"**{line}**" for line in warnings(found)]
    return "\n\n".join(["# Leaderboard", scope(found), interval_note(found), *bold])


def _section_text(section: Section) -> str:
    table = markdown_table(section.columns, section.rows)
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
    title = (
        f"## Combined poisoning drop, {poisoned} poisoned clients"
        if poisoned != 1
        else "## Combined poisoning drop, 1 poisoned client"
    )
    rows = []
    for rule in ranking.order:
        first = ranking.order[0]
        behind = "" if rule == first else value(behind_first(ranking, rule))
        attacks = [value(ranking.table.one(rule, attack)) for attack in range(len(found.attacks))]
        mean, worst = value(ranking.means[rule]), value(ranking.table.worst(rule))
        kept = format_number(attacked_f1(found, rule, poisoned))
        rows.append(
            [
                mark_rule(found, rule),
                *attacks,
                f"**{mean}**",
                worst,
                behind,
                ranking.letters.get(rule, "-"),
                kept,
            ]
        )
    lines = [
        title,
        "",
        "In % of the clean twin's value, mean over seeds: lower is better, negative is a gain. "
        "Mean: over attacks. Worst: the largest of the attacks' means. Behind: mean minus the "
        "first rule's, paired. F1: macro F1 under attack, mean of all runs; a rule that reaches "
        "little has little to lose.",
        "",
        markdown_table(["Rule", *found.attacks, "Mean", "Worst", "Behind", "Group", "F1"], rows),
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


def behind_first(ranking: Ranking, rule: int) -> Estimate:
    """The mean of a rule minus that of the first one, paired."""
    return _negative(ranking.differences.get((ranking.order[0], rule), Estimate(None)))


def attacked_f1(found: ComparisonResults, rule: int, poisoned: int) -> float | None:
    """Macro F1 on clean test images under attack, in %, mean of a rule's runs."""
    cells = found.all(found.rules[rule], poisoned)
    return mean_of_known(one.report.evaluations["clean"].f1 for one in cells)


def _negative(one: Estimate) -> Estimate:
    turn: Callable[[float | None], float | None] = lambda x: None if x is None else -x  # noqa: E731
    return Estimate(turn(one.value), turn(one.high), turn(one.low), one.p)


def mark_rule(found: ComparisonResults, rule: int) -> str:
    """The rule's name with signs for the server's data that it used."""
    uses = found.uses[found.rules[rule]]
    return found.rules[rule] + (" †" if "root" in uses else "") + (" ‡" if "proxy" in uses else "")


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


def sections(found: ComparisonResults) -> list[Section]:
    """What stands below the rankings."""
    parts = (
        _clean(found),
        _worst_cases(found),
        _attack_success(found),
        _detection(found),
        _cost(found),
    )
    return [one for one in parts if one is not None]


def _clean(found: ComparisonResults) -> Section:
    """Performance of the rules without contamination."""
    judged = found.clean_f1()
    baseline = found.rules.index(BASELINE) if BASELINE in found.rules else 0
    rows = []
    for rule, name in enumerate(found.rules):
        behind = "" if rule == baseline else value(judged.difference(rule, baseline))
        accuracy = mean_of_known(
            one.report.evaluations["twin_clean"].accuracy for one in _one_a_seed(found.all(name))
        )
        rows.append(
            [mark_rule(found, rule), value(judged.one(rule, 0)), behind, format_number(accuracy)]
        )
    columns = ["Rule", "Macro F1", f"minus {found.rules[baseline]}'s", "Accuracy"]
    note = "The clean twins on the clean test images, in %."
    return Section("Without contamination", note, columns, rows)


def _worst_cases(found: ComparisonResults) -> Section | None:
    """Worst hospital and class and the spread over hospitals; None where no cell has them."""
    if not any(one.report.fairness for one in found.results):
        return None
    rows = []
    for poisoned in found.counts:
        tables = [found.over_seeds(poisoned, read) for read in _WORST_CASES.values()]
        rows += [
            [
                mark_rule(found, rule),
                str(poisoned),
                *(value(_without_one_seed(found, table.mean(rule))) for table in tables),
            ]
            for rule in range(len(found.rules))
        ]
    note = (
        "Clean test images, mean over attacks and seeds; in brackets: 95 % intervals over seeds. "
        "Worst hospital: its accuracy; worst class: its recall; drops: from the clean twin's worst "
        "one, in %. Spread: standard deviation of the hospitals' accuracies in points; grown: "
        "minus the clean twin's."
    )
    columns = ["Rule", "Poisoned", *_WORST_CASES]
    return Section("Worst hospital, worst class, spread", note, columns, rows) if rows else None


def _without_one_seed(found: ComparisonResults, one: Estimate) -> Estimate:
    """No interval over a single seed."""
    return Estimate(one.value) if len(found.seeds) == 1 else one


def _spread(quantity: str, measure: str) -> Callable[[Result], float | None]:
    """A spread of this run's model on clean test images."""

    def read(one: Result) -> float | None:
        section = one.report.fairness
        found = section.evaluations["clean"].get(quantity) if section else None
        return getattr(found, measure).value if found else None

    return read


def _spread_change(quantity: str, measure: str) -> Callable[[Result], float | None]:
    """What changes a spread between the clean twin and this run."""

    def read(one: Result) -> float | None:
        section = one.report.fairness
        found = section.drops.get("poisoning", {}).get(quantity) if section else None
        return getattr(found, measure).value if found else None

    return read


_WORST_CASES: Mapping[str, Callable[[Result], float | None]] = {
    "Worst hospital (%)": _spread("site_accuracy", "worst"),
    "its drop (%)": _spread_change("site_accuracy", "worst"),
    "Worst class (%)": _spread(RECALL, "worst"),
    "drop of it (%)": _spread_change(RECALL, "worst"),
    "Spread (points)": _spread("site_accuracy", "std"),
    "grown (points)": _spread_change("site_accuracy", "std"),
}


def _one_a_seed(results: Sequence[Result]) -> Iterable[Result]:
    return {one.cell.seed: one for one in results}.values()


def _attack_success(found: ComparisonResults) -> Section | None:
    """Backdoors: how often the trigger works; None where there is none."""
    rates = {
        (rule, poisoned, attack): found.success_rate(rule, attack, poisoned)
        for rule in found.rules
        for poisoned in found.counts
        for attack in found.attacks
    }
    shown = [
        attack
        for attack in found.attacks
        if any(rate is not None for (_, _, other), rate in rates.items() if other == attack)
    ]
    if not shown:
        return None
    rows = [
        [
            mark_rule(found, rule),
            str(poisoned),
            *(format_number(rates[name, poisoned, attack]) for attack in shown),
        ]
        for rule, name in enumerate(found.rules)
        for poisoned in found.counts
    ]
    note = "% of the triggered test images of other classes, mean over seeds."
    return Section("Attack success rate", note, ["Rule", "Poisoned", *shown], rows)


def _detection(found: ComparisonResults) -> Section | None:
    """Detection of poisoned clients by their influence."""
    rows = []
    for rule, name in enumerate(found.rules):
        for poisoned in found.counts:
            cells = found.all(name, poisoned)
            detections = [one.report.detection for one in cells if one.report.detection is not None]
            silent = sum(one.precision is None for one in detections)
            weights = [weight for one in cells for _, weight in one.poisoned_weights]
            rows.append(
                [
                    mark_rule(found, rule),
                    str(poisoned),
                    format_number(mean_of_known(one.precision for one in detections)),
                    format_number(mean_of_known(one.recall for one in detections)),
                    f"{silent} of {len(detections)}",
                    format_number(mean_of_known(weights), 3),
                ]
            )
    columns = [
        "Rule",
        "Poisoned",
        "Precision",
        "Recall",
        "Runs without flagged clients",
        "Influence of the poisoned together",
    ]
    note = "In %, mean over attacks and seeds; precision over the runs with flagged clients."
    return Section("Detection of poisoned clients", note, columns, rows) if rows else None


def _cost(found: ComparisonResults) -> Section:
    """Seconds, memory, bytes."""
    rows = []
    for rule, name in enumerate(found.rules):
        cells = found.all(name)
        seconds = [
            format_number(mean_of_known(one.report.timing.get(part) for one in cells))
            for part in ("run", "aggregate")
        ]
        memory = max((one.cost.get("peak_memory") or 0 for one in cells), default=0)
        gpu = max((one.cost.get("peak_gpu_memory") or 0 for one in cells), default=0)
        sent = mean_of_known(one.bytes_sent for one in cells)
        sizes = [format_number(size / MEGABYTE) if size else "-" for size in (memory, gpu, sent)]
        rows.append([mark_rule(found, rule), *seconds, *sizes])
    columns = [
        "Rule",
        "Seconds a run",
        "of them in the rule",
        "Peak memory, MB",
        "Peak GPU memory, MB",
        "Sent a run, MB",
    ]
    note = (
        "Seconds: mean over runs, without the clean twin; cells that ran side by side slowed each "
        "other down. Memory: the largest of the runs' processes, data and libraries included. "
        "Sent: computed (models down and up times their bytes), not measured."
    )
    return Section("Cost", note, columns, rows)


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
