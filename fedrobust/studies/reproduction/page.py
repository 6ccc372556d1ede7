"""The text of a results page from its template and the stored values: no number of it is typed."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pandas as pd
from jinja2 import Environment, StrictUndefined, TemplateError

from fedrobust.errors import DataError
from fedrobust.evaluation.statistics import Estimate
from fedrobust.reporting.text import format_number
from fedrobust.studies.comparison.leaderboard import markdown_table
from fedrobust.studies.comparison.summary import (
    Entry,
    Quantity,
    TableRow,
    format_estimate,
    plain_cells,
)
from fedrobust.studies.reproduction.tables import SUMMARY, StoredTable, read_table

TEMPLATE: Final = "page.md.j2"
WIDTH: Final = 100
MARKER: Final = re.compile(r"( *)([*+-]|\d+\.) ")
FENCE: Final = re.compile(r"^ *(```|:::)")


def page_path(table: StoredTable) -> Path:
    """The page of a table, beside its folder."""
    return table.folder.with_suffix(".md")


def render_page(table: StoredTable) -> str:
    """The text of a table's page.

    In the template stand `table(...)`, `value(...)`, `runs(...)`, `mean(...)`, `command()` and
    `origin` (docs/reproduce.md); each takes `of=<another table>`.

    Raises:
        DataError: the template asks for what is not stored.
    """
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    path = table.folder / TEMPLATE
    text = path.read_text(encoding="utf-8")
    try:
        made = environment.from_string(text).render(_functions(table))
    except (TemplateError, KeyError, TypeError) as error:
        raise DataError(f"{path}: {error}") from error
    source = f"docs/results/{table.name}/{TEMPLATE}"
    notice = f"<!-- made from {source} by docs/generate_results.py: change that -->"
    return f"{notice}\n\n{wrap_prose(made).strip()}\n"


def _functions(table: StoredTable) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: partial(_call, function, table)
        for name, function in (
            ("table", summary_table),
            ("value", summary_value),
            ("runs", runs_table),
            ("mean", runs_mean),
            ("command", command),
        )
    }
    return {**found, "origin": table.origin}


def _call(function: Any, table: StoredTable, *args: Any, of: str = "", **named: Any) -> str:
    chosen = read_table(of, table.folder.parent) if of else table
    return str(function(chosen, *args, **named))


def command(table: StoredTable) -> str:
    """The command that gives the table."""
    needs = (f"{key}=<{about}>" for key, about in table.settings.needs.items())
    return " ".join(["python -m fedrobust.compare", *table.settings.command, *needs])


def summary_table(
    table: StoredTable,
    name: str,
    poisoned: int | None = None,
    columns: Sequence[str] | None = None,
    rules: Sequence[str] | None = None,
) -> str:
    """A table of leaderboard.md, as Markdown.

    Args:
        table: whose it is.
        name: of the table in summary.csv, e.g. "drops".
        poisoned: the number of poisoned clients; None: all rows.
        columns: those shown, in this order; None: all.
        rules: likewise.
    """
    rows = _summary_rows(table, name, poisoned)
    if rules is not None:
        by_rule = {row.rule: row for row in rows}
        rows = [by_rule[rule] for rule in rules]
    if columns is not None:
        rows = [
            TableRow(row.rule, row.uses, [(one, dict(row.entries)[one]) for one in columns])
            for row in rows
        ]
    return markdown_table(*plain_cells(rows))


def summary_value(
    table: StoredTable,
    name: str,
    rule: str,
    column: str,
    *,
    interval: bool = False,
    digits: int | None = None,
    **where: Any,
) -> str:
    """One number of summary.csv, with its interval if asked for. where: poisoned, and texts of
    other columns of a rule with several rows, e.g. Model="own"."""
    others = dict(where)
    found = _summary_rows(table, name, others.pop("poisoned", None))
    rows = [
        row for row in found if row.rule == rule and others.items() <= dict(row.entries).items()
    ]
    if not rows:
        raise DataError(
            f"{table.folder / SUMMARY}: {name} has no rule {rule} {others or ''}".strip()
        )
    row = rows[0]
    entry = dict(row.entries)[column]
    if isinstance(entry, str):
        return entry
    shown = entry.digits if digits is None else digits
    if interval:
        return format_estimate(entry.estimate, shown)
    return format_number(entry.estimate.value, shown)


def _summary_rows(table: StoredTable, name: str, poisoned: int | None) -> list[TableRow]:
    path = table.folder / SUMMARY
    text = dict.fromkeys(("table", "rule", "uses", "column", "text"), str)
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=text)
    chosen = frame[frame["table"] == name]
    if poisoned is not None:
        chosen = chosen[chosen["poisoned"] == poisoned]
    if chosen.empty:
        raise DataError(f"{path}: has no table {name} with poisoned={poisoned}")
    # a rule has several rows where a column of it comes again
    again = chosen.groupby(["poisoned", "rule", "column"], dropna=False).cumcount()
    groups = chosen.groupby(["poisoned", "rule", again], sort=False, dropna=False)
    return [
        TableRow(
            str(rule),
            frozenset(_text(rows["uses"].iloc[0]).split()),
            [(str(row["column"]), _entry(row)) for _, row in rows.iterrows()],
        )
        for (_, rule, _), rows in groups
    ]


def _entry(row: pd.Series) -> Entry:
    if pd.isna(row["digits"]):
        return _text(row["text"])
    ends = (None if pd.isna(row[name]) else float(row[name]) for name in ("value", "low", "high"))
    return Quantity(Estimate(*ends), int(row["digits"]))


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def runs_table(
    table: StoredTable,
    metric: str | Mapping[str, str],
    columns: str = "contamination",
    digits: int = 1,
    **where: Any,
) -> str:
    """Means over seeds of a metric of the single runs, rules by `columns`, each with the standard
    deviation of the seeds, as Markdown.

    Args:
        table: whose values.
        metric: of results.csv; several as {metric: head of its column}.
        columns: what the columns are: contamination or poisoned; of no meaning with several
            metrics.
        digits: shown after the point.
        where: keys of results.csv that are fixed, e.g. poisoned=3, strategy=["fedavg"].
    """
    metrics = {metric: metric} if isinstance(metric, str) else dict(metric)
    chosen = _chosen_runs(table, list(metrics), where)
    column = columns if isinstance(metric, str) else "metric"
    heads = list(dict.fromkeys(chosen[column]))
    if column == "metric":
        heads = list(metrics)
    by_cell = {key: rows["value"] for key, rows in chosen.groupby(["strategy", column])}
    rows = [
        [rule, *(_mean_text(by_cell.get((rule, head)), digits) for head in heads)]
        for rule in dict.fromkeys(chosen["strategy"])
    ]
    names = metrics if column == "metric" else {head: str(head) for head in heads}
    return markdown_table(["Rule", *(names[head] for head in heads)], rows)


def _mean_text(values: pd.Series | None, digits: int) -> str:
    """12.3 ± 1.4"""
    known = values.dropna() if values is not None else pd.Series(dtype=float)
    if known.empty:
        return "-"
    spread = f" ± {format_number(float(known.std()), digits)}" if len(known) > 1 else ""
    return format_number(float(known.mean()), digits) + spread


def runs_mean(table: StoredTable, metric: str, digits: int = 1, **where: Any) -> str:
    """The mean of a metric over all single runs with these keys."""
    values = _chosen_runs(table, [metric], where)["value"].dropna()
    return format_number(float(values.mean()) if len(values) else None, digits)


def _chosen_runs(
    table: StoredTable, metrics: Sequence[str], where: Mapping[str, Any]
) -> pd.DataFrame:
    found = table.values
    for key, value in {"metric": list(metrics), **where}.items():
        found = found[found[key].isin(value if isinstance(value, list) else [value])]
    if found.empty:
        raise DataError(f"{table.folder}: no run has {', '.join(metrics)} with {dict(where)}")
    return found


def wrap_prose(text: str) -> str:
    """The same Markdown with paragraphs and items of lists in lines of at most 100 signs; tables,
    headings and blocks of code stay."""
    parts: list[str] = []
    block: list[str] = []
    fenced = False
    for line in [*text.split("\n"), ""]:
        if FENCE.match(line):
            fenced = not fenced
            parts += [*_wrap_block(block), line]
            block = []
        elif fenced:
            parts.append(line)
        elif not line.strip():
            parts += [*_wrap_block(block), ""]
            block = []
        elif MARKER.match(line):
            parts += _wrap_block(block)
            block = [line]
        else:
            block.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def _wrap_block(lines: Sequence[str]) -> Iterator[str]:
    """One paragraph, or one item of a list."""
    if not lines or lines[0].lstrip().startswith(("|", "#", "!", "<", ">", "    ")):
        yield from lines
        return
    item = MARKER.match(lines[0])
    indent = len(item[0]) if item else len(lines[0]) - len(lines[0].lstrip())
    words = " ".join(line.strip() for line in lines)
    yield from textwrap.wrap(
        words,
        WIDTH,
        initial_indent=item[1] if item else " " * indent,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
