"""The tables of a comparison as numbers with intervals: what leaderboard.md, leaderboard.html and
summary.csv show."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fedrobust.evaluation.fairness import RECALL
from fedrobust.evaluation.statistics import Estimate
from fedrobust.reporting.text import format_number
from fedrobust.studies.comparison.analysis import Ranking
from fedrobust.studies.comparison.cell_results import Result
from fedrobust.studies.comparison.results_table import ComparisonResults, mean_of_known
from fedrobust.studies.comparison.weakness import BASELINE

MEGABYTE = 1e6
SHARE_DIGITS = 3  # of a share of the total weight
POISONED, MEAN = "Poisoned", "Mean"
SIGNS = {"root": "†", "proxy": "‡"}  # of the server's data
COLUMNS = (
    *("table", "poisoned", "rule", "uses", "column"),
    *("value", "low", "high", "digits", "text"),
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number in a table, None where undefined. digits: shown after the point."""

    estimate: Estimate
    digits: int = 1

    def __str__(self) -> str:
        return format_estimate(self.estimate, self.digits)


Entry = Quantity | str


@dataclass(frozen=True, slots=True)
class TableRow:
    """What a table says of one rule.

    Attributes:
        rule: its name in the grid.
        uses: the server's data that it used, of "root" and "proxy".
        entries: (head of the column, number or text), in order.
        poisoned: how many clients were poisoned; None where the row is about all numbers of them.
    """

    rule: str
    uses: frozenset[str]
    entries: Sequence[tuple[str, Entry]]
    poisoned: int | None = None


@dataclass(frozen=True, slots=True)
class ResultTable:
    """A table of all rules.

    Attributes:
        name: in summary.csv, and for the pages that show it.
        title: its heading.
        note: how to read it.
        rows: all of the same columns.
    """

    name: str
    title: str
    note: str
    rows: Sequence[TableRow]


def number(value: float | None, digits: int = 1) -> Quantity:
    """A number without an interval."""
    return Quantity(Estimate(value), digits)


def format_estimate(one: Estimate, digits: int = 1) -> str:
    """12.3 [10.1, 14.8]"""
    if one.value is None:
        return "-"
    ends = [] if one.low is None else [one.low, one.high]
    interval = ", ".join(format_number(end, digits) for end in ends)
    return format_number(one.value, digits) + (f" [{interval}]" if interval else "")


def mark_name(rule: str, uses: Iterable[str]) -> str:
    """A rule's name with signs for the server's data that it used."""
    signs = (sign for name, sign in SIGNS.items() if name in uses)
    return "".join([rule, *(f" {sign}" for sign in signs)])


def mark_rule(found: ComparisonResults, rule: int) -> str:
    """The same of a rule of the grid, by its place."""
    return mark_name(found.rules[rule], found.uses[found.rules[rule]])


def plain_cells(rows: Sequence[TableRow]) -> tuple[list[str], list[list[str]]]:
    """(heads, rows) of a table as text; the first column names the rule."""
    heads = ["Rule", *(head for head, _ in (rows[0].entries if rows else ()))]
    cells = [
        [mark_name(row.rule, row.uses), *(_cell(head, entry) for head, entry in row.entries)]
        for row in rows
    ]
    return heads, cells


def _cell(head: str, entry: Entry) -> str:
    return f"**{entry}**" if head == MEAN else str(entry)


def summary_frame(tables: Sequence[ResultTable]) -> pd.DataFrame:
    """All tables in one: a row for each of their cells (COLUMNS; docs/compare.md)."""
    return pd.DataFrame(
        [line for table in tables for row in table.rows for line in _lines(table.name, row)],
        columns=list(COLUMNS),
    )


def _lines(table: str, row: TableRow) -> Iterator[dict[str, Any]]:
    for column, entry in row.entries:
        labels = {
            "table": table,
            "poisoned": row.poisoned,
            "rule": row.rule,
            "uses": " ".join(sorted(row.uses)),
            "column": column,
        }
        if isinstance(entry, str):
            yield {**labels, "text": entry}
        else:
            one = entry.estimate
            numbers = {"value": one.value, "low": one.low, "high": one.high}
            yield {**labels, **numbers, "digits": entry.digits}


def summarise(found: ComparisonResults, rankings: Mapping[int, Ranking]) -> list[ResultTable]:
    """All tables: the drops under each number of poisoned clients, then `sections`."""
    ranked = [drop_table(found, ranking, count) for count, ranking in rankings.items()]
    return [*ranked, *sections(found)]


def drop_table(found: ComparisonResults, ranking: Ranking, poisoned: int) -> ResultTable:
    """Rules by attacks, their mean and worst case, the distance to the first rule, and the groups;
    the best rule first."""
    clients = "1 poisoned client" if poisoned == 1 else f"{poisoned} poisoned clients"
    note = (
        "In % of the clean twin's value, mean over seeds: lower is better, negative is a gain. "
        "Mean: over attacks. Worst: the largest of the attacks' means. Behind: mean minus the "
        "first rule's, paired. F1: macro F1 under attack, mean of all runs; a rule that reaches "
        "little has little to lose."
    )
    rows = [_drop_row(found, ranking, rule, poisoned) for rule in ranking.order]
    return ResultTable("drops", f"Combined poisoning drop, {clients}", note, rows)


def _drop_row(found: ComparisonResults, ranking: Ranking, rule: int, poisoned: int) -> TableRow:
    attacks = [
        (name, Quantity(ranking.table.one(rule, place))) for place, name in enumerate(found.attacks)
    ]
    first = rule == ranking.order[0]
    sums: list[tuple[str, Entry]] = [
        (MEAN, Quantity(ranking.means[rule])),
        ("Worst", Quantity(ranking.table.worst(rule))),
        ("Behind", "" if first else Quantity(behind_first(ranking, rule))),
        ("Group", ranking.letters.get(rule, "-")),
        ("F1", number(attacked_f1(found, rule, poisoned))),
    ]
    return _row(found, rule, [*attacks, *sums], poisoned)


def _row(
    found: ComparisonResults,
    rule: int,
    entries: Sequence[tuple[str, Entry]],
    poisoned: int | None = None,
) -> TableRow:
    name = found.rules[rule]
    return TableRow(name, found.uses[name], entries, poisoned)


def behind_first(ranking: Ranking, rule: int) -> Estimate:
    """The mean of a rule minus that of the first one, paired."""
    return _negative(ranking.differences.get((ranking.order[0], rule), Estimate(None)))


def _negative(one: Estimate) -> Estimate:
    value, low, high = (None if x is None else -x for x in (one.value, one.high, one.low))
    return Estimate(value, low, high, one.p)


def attacked_f1(found: ComparisonResults, rule: int, poisoned: int) -> float | None:
    """Macro F1 on clean test images under attack, in %, mean of a rule's runs."""
    cells = found.all(found.rules[rule], poisoned)
    return mean_of_known(one.report.evaluations["clean"].f1 for one in cells)


def sections(found: ComparisonResults) -> list[ResultTable]:
    """What stands below the rankings; those with a row."""
    parts = (
        _clean(found),
        _worst_cases(found),
        _certified(found),
        _clean_hospitals(found),
        _attack_success(found),
        _lifespans(found),
        _detection(found),
        _cost(found),
    )
    return [one for one in parts if one.rows]


def _clean(found: ComparisonResults) -> ResultTable:
    """Performance of the rules without contamination."""
    judged = found.clean_f1()
    baseline = found.rules.index(BASELINE) if BASELINE in found.rules else 0
    rows = []
    for rule, name in enumerate(found.rules):
        accuracy = mean_of_known(
            one.report.evaluations["twin_clean"].accuracy for one in found.twins(name)
        )
        behind = "" if rule == baseline else Quantity(judged.difference(rule, baseline))
        entries: list[tuple[str, Entry]] = [
            ("Macro F1", Quantity(judged.one(rule, 0))),
            (f"minus {found.rules[baseline]}'s", behind),
            ("Accuracy", number(accuracy)),
        ]
        rows.append(_row(found, rule, entries))
    note = "The clean twins on the clean test images, in %."
    return ResultTable("clean", "Without contamination", note, rows)


def _worst_cases(found: ComparisonResults) -> ResultTable:
    """Worst hospital and class and the spread over hospitals; no row where no cell has them."""
    known = any(one.report.fairness for one in found.results)
    rows = []
    for poisoned in found.counts if known else ():
        tables = [found.over_seeds(poisoned, read) for read in _WORST_CASES.values()]
        for rule in range(len(found.rules)):
            means = (_without_one_seed(found, table.mean(rule)) for table in tables)
            values = zip(_WORST_CASES, map(Quantity, means), strict=True)
            rows.append(_row(found, rule, [(POISONED, str(poisoned)), *values], poisoned))
    note = (
        "Clean test images, mean over attacks and seeds; in brackets: 95 % intervals over seeds. "
        "Worst hospital: its accuracy; worst class: its recall; drops: from the clean twin's worst "
        "one, in %. Spread: standard deviation of the hospitals' accuracies in points; grown: "
        "minus the clean twin's."
    )
    return ResultTable("worst_cases", "Worst hospital, worst class, spread", note, rows)


def _clean_hospitals(found: ComparisonResults) -> ResultTable:
    """What poisoned hospitals cost the clean ones, by model; no row where no cell says so."""
    rows = []
    for poisoned in found.counts:
        for model, field in (("global", "global_model"), ("own", "personal_models")):
            table = found.over_seeds(poisoned, _clean_hospitals_drop(field))
            for rule in range(len(found.rules)):
                means = [table.one(rule, place) for place in range(len(found.attacks))]
                if all(one.value is None for one in means):
                    continue
                heads = [*found.attacks, MEAN]
                values = [_without_one_seed(found, one) for one in (*means, table.mean(rule))]
                entries: list[tuple[str, Entry]] = [(POISONED, str(poisoned)), ("Model", model)]
                entries += zip(heads, map(Quantity, values), strict=True)
                rows.append(_row(found, rule, entries, poisoned))
    note = (
        "Combined drop, from the clean twin, of the metrics' means over the clean hospitals, each "
        "on its own clean test images, in %; mean over seeds; in brackets: 95 % intervals over "
        "seeds. Model: the global one, or each hospital's own."
    )
    return ResultTable("clean_hospitals", "What clean hospitals lose", note, rows)


def _clean_hospitals_drop(model: str) -> Callable[[Result], float | None]:
    """The poisoning drop over clean hospitals of one of the models of `SiteDropsSection`."""

    def read(one: Result) -> float | None:
        section = one.report.site_drops
        drops = None if section is None else getattr(section, model)
        if drops is None or drops.poisoning is None:
            return None
        clean = drops.poisoning.by_kind.get("clean")
        return None if clean is None else clean.combined

    return read


def _certified(found: ComparisonResults) -> ResultTable:
    """Certified accuracy by number of malicious clients; no row where no cell has it."""
    known = [one.report.certificate for one in found.results if one.report.certificate]
    most = max((len(one.certified_accuracy) for one in known), default=0)
    rows = []
    for poisoned in sorted({one.cell.poisoned for one in found.results}) if known else ():
        readers: dict[str, Callable[[Result], float | None]] = {
            "Ensemble's accuracy (%)": _ensemble_accuracy
        }
        readers |= {f"m = {m}": _certified_against(m) for m in range(most)}
        tables = {head: found.over_seeds(poisoned, read) for head, read in readers.items()}
        for rule, name in enumerate(found.rules):
            if any(one.report.certificate for one in found.all(name, poisoned)):
                means = {
                    head: Quantity(_without_one_seed(found, table.mean(rule)))
                    for head, table in tables.items()
                }
                rows.append(
                    _row(found, rule, [(POISONED, str(poisoned)), *means.items()], poisoned)
                )
    note = (
        "Of the majority of groups of clients with a global model each (docs/certificates.md): "
        "share of the clean test images that it gets right, and (m) whatever m clients do in "
        "training. In %, mean over attacks and seeds; in brackets: 95 % intervals over seeds."
    )
    return ResultTable("certified", "Certified accuracy", note, rows)


def _ensemble_accuracy(one: Result) -> float | None:
    return one.report.certificate.accuracy if one.report.certificate else None


def _certified_against(m: int) -> Callable[[Result], float | None]:
    """Certified accuracy against m malicious clients; 0 beyond what the report lists."""

    def read(one: Result) -> float | None:
        section = one.report.certificate
        if section is None:
            return None
        return section.certified_accuracy[m] if m < len(section.certified_accuracy) else 0.0

    return read


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


def _attack_success(found: ComparisonResults) -> ResultTable:
    """Backdoors: how often the trigger works."""
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
    rows = []
    for rule, name in enumerate(found.rules):
        for poisoned in found.counts if shown else ():
            values = [(attack, number(rates[name, poisoned, attack])) for attack in shown]
            rows.append(_row(found, rule, [(POISONED, str(poisoned)), *values], poisoned))
    note = "% of the triggered test images of other classes, mean over seeds."
    return ResultTable("attack_success", "Attack success rate", note, rows)


def _lifespans(found: ComparisonResults) -> ResultTable:
    """How long backdoors last whose attackers stop or leave; no row where there are none."""

    def lifespan(rule: str, attack: str, poisoned: int) -> float | None:
        sections = (one.report.schedule for one in found.under(rule, attack, poisoned))
        return mean_of_known(
            one.durability.lifespan
            for one in sections
            if one is not None and one.durability is not None
        )

    lasts = {
        key: lifespan(*key) for key in itertools.product(found.rules, found.attacks, found.counts)
    }
    shown = [
        attack
        for attack in found.attacks
        if any(one is not None for (_, other, _), one in lasts.items() if other == attack)
    ]
    rows = [
        _row(
            found,
            rule,
            [
                (POISONED, str(poisoned)),
                *((attack, number(lasts[name, attack, poisoned])) for attack in shown),
            ],
            poisoned,
        )
        for rule, name in enumerate(found.rules)
        for poisoned in (found.counts if shown else ())
    ]
    note = (
        "Rounds after the last attack up to the last one with a success rate above 50 %, 0: in "
        "none of them; one that is still above it after the last round counts with the rounds that "
        "were left. Mean over seeds."
    )
    return ResultTable("lifespans", "Lifespan of backdoors", note, rows)


def _detection(found: ComparisonResults) -> ResultTable:
    """Detection of poisoned clients by the rule that names them, else by their influence."""
    rows = [
        _row(
            found,
            rule,
            _detection_entries(found.all(name, poisoned), poisoned, found.all(name, 0)),
            poisoned,
        )
        for rule, name in enumerate(found.rules)
        for poisoned in found.counts
    ]
    note = (
        "In %, mean over attacks and seeds; precision over the runs with flagged clients. False "
        "alarms: flagged clients among those that are not poisoned, beside attackers and in runs "
        "without. Influence: share of the total weight, 0 to 1."
    )
    return ResultTable("detection", "Detection of poisoned clients", note, rows)


def _detection_entries(
    cells: Sequence[Result], poisoned: int, clean: Sequence[Result]
) -> list[tuple[str, Entry]]:
    detections = [one.report.detection for one in cells if one.report.detection is not None]
    silent = sum(one.precision is None for one in detections)
    weights = [weight for one in cells for _, weight in one.poisoned_weights]
    return [
        (POISONED, str(poisoned)),
        ("Precision", number(mean_of_known(one.precision for one in detections))),
        ("Recall", number(mean_of_known(one.recall for one in detections))),
        ("False alarms", number(mean_of_known(one.false_alarms for one in cells))),
        ("without attackers", number(mean_of_known(one.false_alarms for one in clean))),
        ("Runs without flagged clients", f"{silent} of {len(detections)}"),
        ("Influence of the poisoned together", number(mean_of_known(weights), SHARE_DIGITS)),
    ]


def _cost(found: ComparisonResults) -> ResultTable:
    """Seconds, memory, bytes."""
    rows = [
        _row(found, rule, _cost_entries(found.all(name))) for rule, name in enumerate(found.rules)
    ]
    note = (
        "Seconds: mean over runs, without the clean twin; cells that ran side by side slowed each "
        "other down. Memory: the largest of the runs' processes, data and libraries included. "
        "Sent: computed (models down and up times their bytes), not measured."
    )
    return ResultTable("cost", "Cost", note, rows)


def _cost_entries(cells: Sequence[Result]) -> list[tuple[str, Entry]]:
    run, rule = (
        number(mean_of_known(one.report.timing.get(part) for one in cells))
        for part in ("run", "aggregate")
    )
    memory, gpu = (
        max((one.cost.get(part) or 0 for one in cells), default=0)
        for part in ("peak_memory", "peak_gpu_memory")
    )
    sent = mean_of_known(one.bytes_sent for one in cells)
    return [
        ("Seconds a run", run),
        ("of them in the rule", rule),
        ("Peak memory, MB", _megabytes(memory)),
        ("Peak GPU memory, MB", _megabytes(gpu)),
        ("Sent a run, MB", _megabytes(sent)),
    ]


def _megabytes(size: float | None) -> Quantity:
    return number(size / MEGABYTE if size else None)
