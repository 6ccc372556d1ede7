"""The final screen: evaluations, drops and clients of a report in tables that fit 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedrobust.drops import UNSTABLE_BELOW
from fedrobust.wording import DROP_FORMULA, DROP_MEANINGS, METRIC_NAMES, decimal, headline, label

MOST_CLIENTS = 40  # rows on the screen; the files hold all of them
KIND_STYLES = {"clean": "", "noisy": "yellow", "poisoned": "red"}


def summary_table(report: Mapping[str, Any], uses: Mapping[str, int] | None = None) -> RenderableType:
    """The final screen of a validated report.

    uses: extra information that the strategy had on the server, with its number of images, e.g. {"root": 84, "proxy": 300}.
    """
    kinds = count_kinds(report)
    title = headline(report["strategy"], kinds, report["rounds"], report["seed"])
    parts: list[RenderableType] = [Text(title, style="bold"), Text(f"all values in %{uses_text(uses)}", style="dim")]
    parts += [evaluations_table(report["evaluations"]), drops_table(report["drops"])]
    parts += [Text(line, style="dim") for line in drop_notes(report["drops"])]
    parts += [clients_table(report["clients"]), *(Text(line) for line in attack_lines(report))]
    return Group(*parts)


def count_kinds(report: Mapping[str, Any]) -> dict[str, int]:
    """Number of clients of each kind."""
    kinds = [client["kind"] for client in report["clients"]]
    return {kind: kinds.count(kind) for kind in KIND_STYLES}


def uses_text(uses: Mapping[str, int] | None) -> str:
    """A warning that the strategy knew more than the clients' replies; empty where it did not."""
    if not uses:
        return ""
    return "; server data used: " + ", ".join(f"{name} ({size} images)" for name, size in sorted(uses.items()))


def _table(title: str, *columns: str, left: int = 1) -> Table:
    """A table whose first `left` columns are words, the others numbers."""
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place < left else "right", overflow="fold", no_wrap=place >= left)
    return table


def evaluations_table(evaluations: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row an evaluation, the required ones first."""
    first = ("clean", "corrupted", "twin_clean", "twin_corrupted")
    names = [name for name in first if name in evaluations] + sorted(set(evaluations) - set(first))
    table = _table("Test images", "Model on", *METRIC_NAMES.values(), "Images")
    for name in names:
        one = evaluations[name]
        table.add_row(label(name), *(decimal(one[metric]) for metric in METRIC_NAMES), str(one["n"]))
    return table


def drops_table(drops: Mapping[str, Mapping[str, Any]]) -> Table:
    """A block of rows a drop: every metric, then the Combined one with its interval."""
    table = _table("Performance drop", "Drop", "Metric", "normal → attack", "drop", "95 % interval", left=2)
    for name in (name for name in DROP_MEANINGS if name in drops):
        drop = drops[name]
        for place, (metric, one) in enumerate(drop["per_metric"].items()):
            change = f"{decimal(one['normal'])} → {decimal(one['attack'])}"
            table.add_row(name if place == 0 else "", label(metric), change, drop_text(one["drop"]), "")
        table.add_row("", "Combined", "", Text(drop_text(drop["combined"])), interval(drop["ci95"]), style="bold", end_section=True)
    return table


def drop_text(value: float | None) -> str:
    """A drop; a negative one is called a gain."""
    text = decimal(value)
    return f"gain {text}" if text.startswith("-") and value is not None else text


def interval(ci95: list[float] | None) -> str:
    """Both ends, or a dash where no interval was computed."""
    return "-" if ci95 is None else f"{decimal(ci95[0])} to {decimal(ci95[1])}"


def drop_notes(drops: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What each drop compares, which metrics it left out, and the clients' drop by kind."""
    notes = [f"{name}: {meaning}" for name, meaning in DROP_MEANINGS.items() if name in drops]
    notes += [f"{name}: left out of Combined: {', '.join(map(label, drops[name]['skipped']))}" for name in drops if drops[name]["skipped"]]
    shaky = {name: ", ".join(unstable(drop["per_metric"])) for name, drop in drops.items()}
    notes += [f"{name}: unstable, a ratio to less than {UNSTABLE_BELOW:.0f}: {metrics}" for name, metrics in shaky.items() if metrics]
    kinds = drops["clients"]["by_kind"].items()
    notes.append("clients by kind: " + ", ".join(f"{kind} {decimal(one['combined'])} ({one['num_clients']})" for kind, one in kinds))
    return [*notes, DROP_FORMULA]


def unstable(per_metric: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Metrics whose normal value is so small that the ratio says little."""
    return [label(metric) for metric, one in per_metric.items() if 0 < (one["normal"] or 0) < UNSTABLE_BELOW]


def clients_table(clients: list[Mapping[str, Any]]) -> Table:
    """One row a client; beyond MOST_CLIENTS the contaminated ones come first and the rest is counted."""
    chosen = clients
    if len(clients) > MOST_CLIENTS:
        chosen = sorted(clients, key=lambda one: (one["kind"] == "clean", one["id"]))[:MOST_CLIENTS]
    columns = ("Client", "Kind", "Images", "Influence", "clean", "contaminated", "Combined")
    table = _table("Clients: balanced accuracy on their own test images, Combined drop", *columns, left=2)
    for one in chosen:
        before, after = one["clean"]["balanced_accuracy"], one["contaminated"]["balanced_accuracy"]
        values = (str(one["num_examples"]), decimal(one["weight"], 3), decimal(before), decimal(after), drop_text(one["combined_drop"]))
        table.add_row(str(one["id"]), one["kind"], *values, style=KIND_STYLES[one["kind"]])
    if len(chosen) < len(clients):
        table.caption = f"and {len(clients) - len(chosen)} more in report.json"
    return table


def attack_lines(report: Mapping[str, Any]) -> list[str]:
    """Attack success rate and detection, where they exist."""
    lines = []
    if report["attack_success_rate"] is not None:
        lines.append(f"attack success rate: {decimal(report['attack_success_rate'])}")
    if report["detection"] is not None:
        found = report["detection"]
        lines.append(f"detection of poisoned clients: precision {decimal(found['precision'])}, recall {decimal(found['recall'])}")
    return lines
