"""The final screen of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedrobust.reporting import text
from fedrobust.reporting.text import (
    DROP_FORMULA,
    DROP_MEANINGS,
    METRIC_NAMES,
    drop_notes,
    drop_text,
    evaluation_names,
    format_interval,
    format_number,
    headline,
    metric_label,
    order_drops,
    privacy_text,
    sanitising_text,
    uses_text,
)

KIND_STYLES = {"clean": "", "noisy": "yellow", "poisoned": "red"}


def plain_table(title: str, *columns: str, left: int = 1) -> Table:
    """A table whose first `left` columns are words, the others numbers."""
    made = Table(
        box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False
    )
    for place, name in enumerate(columns):
        made.add_column(
            name,
            justify="left" if place < left else "right",
            overflow="fold",
            no_wrap=place >= left,
        )
    return made


def evasion_parts(section: Mapping[str, Any], most_clients: int) -> list[RenderableType]:
    """The report's section `evasion`: the global model, what columns mean, the clients' own models
    (at most so many), and these fused."""
    whole = _whole(
        f"Evasion: {section['attack']} on the global model, {section['images']} test images",
        section,
    )
    parts: list[RenderableType] = [
        whole,
        *(Text(line, style="dim") for line in text.evasion_meanings(section)),
    ]
    if section["clients"]:
        parts.append(_members(section, most_clients))
    if "fusion" in section:
        parts.append(_whole(text.fusion_title(section), section["fusion"]))
    return parts


def _whole(title: str, part: Mapping[str, Any]) -> Table:
    out = plain_table(title, *text.EVASION_COLUMNS, left=3)
    for row in text.evasion_rows(part):
        out.add_row(*row)
    return out


def _members(section: Mapping[str, Any], most: int) -> Table:
    rows = text.member_rows(section)
    own = plain_table(
        "Evasion: balanced accuracy of each client's own model on its own test images",
        *text.member_columns(section),
        left=2,
    )
    for row in rows[:most]:
        own.add_row(*row, style=KIND_STYLES[row[1]])
    if len(rows) > most:
        own.caption = f"and {len(rows) - most} more in report.json"
    return own


MOST_CLIENTS = 40  # rows on the screen; the files hold all of them


def summary_table(
    report: Mapping[str, Any], uses: Mapping[str, int] | None = None
) -> RenderableType:
    """The final screen of a validated report.

    uses: extra information that the strategy had on the server, with its number of images, e.g.
    {"root": 84, "proxy": 300}.
    """
    parts: list[RenderableType] = [
        Text(headline(report), style="bold"),
        Text("all values in %", style="dim"),
    ]
    if uses:
        parts.append(Text(f"the strategy used server data: {uses_text(uses)}", style="yellow"))
    if promised := privacy_text(report.get("privacy")):
        parts.append(Text(promised))
    parts += [evaluations_table(report["evaluations"]), drops_table(report["drops"])]
    meanings = [f"{name}: {DROP_MEANINGS[name]}" for name in order_drops(report["drops"])]
    parts += [
        Text(line, style="dim") for line in [*meanings, *drop_notes(report["drops"]), DROP_FORMULA]
    ]
    parts += [clients_table(report["clients"]), *(Text(line) for line in attack_lines(report))]
    parts += evasion_parts(report["evasion"], MOST_CLIENTS) if "evasion" in report else []
    return Group(*parts)


def evaluations_table(evaluations: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row an evaluation, the required ones first."""
    table = plain_table("Test images", "Model on", *METRIC_NAMES.values(), "Images")
    for name in evaluation_names(evaluations):
        one = evaluations[name]
        table.add_row(
            metric_label(name),
            *(format_number(one[metric]) for metric in METRIC_NAMES),
            str(one["n"]),
        )
    return table


def drops_table(drops: Mapping[str, Mapping[str, Any]]) -> Table:
    """A block of rows a drop: every metric, then the Combined one with its interval."""
    table = plain_table(
        "Performance drop", "Drop", "Metric", "normal → attack", "drop", "95 % interval", left=2
    )
    for name in order_drops(drops):
        drop = drops[name]
        for place, (metric, one) in enumerate(drop["per_metric"].items()):
            change = f"{format_number(one['normal'])} → {format_number(one['attack'])}"
            table.add_row(
                name if place == 0 else "", metric_label(metric), change, drop_text(one["drop"]), ""
            )
        table.add_row(
            "",
            "Combined",
            "",
            Text(drop_text(drop["combined"])),
            format_interval(drop["ci95"]),
            style="bold",
            end_section=True,
        )
    return table


def clients_table(clients: list[Mapping[str, Any]]) -> Table:
    """One row a client; beyond MOST_CLIENTS the contaminated ones come first and the rest is
    counted."""
    chosen = clients
    if len(clients) > MOST_CLIENTS:
        chosen = sorted(clients, key=lambda one: (one["kind"] == "clean", one["id"]))[:MOST_CLIENTS]
    columns = ("Client", "Kind", "Images", "Influence", "clean", "contaminated", "Combined")
    table = plain_table(
        "Clients: balanced accuracy on their own test images, Combined drop", *columns, left=2
    )
    for one in chosen:
        before, after = one["clean"]["balanced_accuracy"], one["contaminated"]["balanced_accuracy"]
        values = (
            str(one["num_examples"]),
            format_number(one["weight"], 3),
            format_number(before),
            format_number(after),
            drop_text(one["combined_drop"]),
        )
        name = f"{one['id']} {one['site']}" if "site" in one else str(one["id"])
        table.add_row(name, one["kind"], *values, style=KIND_STYLES[one["kind"]])
    if len(chosen) < len(clients):
        table.caption = f"and {len(clients) - len(chosen)} more in report.json"
    return table


def attack_lines(report: Mapping[str, Any]) -> list[str]:
    """Attack success rate, detection and what a sanitiser found, where they exist."""
    lines = []
    if report["attack_success_rate"] is not None:
        lines.append(f"attack success rate: {format_number(report['attack_success_rate'])}")
    if report["detection"] is not None:
        found = report["detection"]
        lines.append(
            "detection of poisoned clients: precision "
            f"{format_number(found['precision'])}, recall {format_number(found['recall'])}"
        )
    if "sanitising" in report:
        lines.append(sanitising_text(report["sanitising"]))
    return lines
