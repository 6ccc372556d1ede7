"""The final screen of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedrobust.reporting import own_models, spreads, text
from fedrobust.reporting.console.tables import new_table
from fedrobust.reporting.report import Report
from fedrobust.reporting.report.attacks import AttackedModel, EvasionSection
from fedrobust.reporting.report.sections import ClientResult

KIND_STYLES = {"clean": "", "noisy": "yellow", "poisoned": "red"}
MOST_CLIENTS = 40  # rows on the screen; the files hold all of them


def summary_table(report: Report, uses: Mapping[str, int] | None = None) -> RenderableType:
    """The final screen of a run.

    Args:
        report: of the run.
        uses: extra information that the strategy had on the server, with its number of images, e.g.
            {"root": 84, "proxy": 300}.
    """
    parts: list[RenderableType] = [
        Text(text.headline(report), style="bold"),
        Text("all values in %", style="dim"),
    ]
    if uses:
        used = f"the strategy used server data: {text.uses_text(uses)}"
        parts.append(Text(used, style="yellow"))
    if left_out := text.left_out_text(report.left_out_files):
        parts.append(Text(left_out, style="yellow"))
    if promised := text.privacy_text(report.privacy):
        parts.append(Text(promised))
    parts += [
        Text(line) for line in (text.ending_text(report), text.best_round_text(report)) if line
    ]
    parts += [_evaluations_table(report), _drops_table(report)]
    meanings = [f"{name}: {text.DROP_MEANINGS[name]}" for name in report.drops.present]
    notes = [*meanings, *text.drop_notes(report.drops), text.DROP_FORMULA]
    parts += [Text(line, style="dim") for line in notes]
    parts += _spread_parts(report)
    parts.append(_clients_table(report.clients))
    parts += [Text(line, style="dim") for line in text.disclosure_notes(report.clients)]
    parts += _own_parts(report)
    parts += map(Text, text.attack_lines(report))
    parts += [] if report.evasion is None else _evasion_parts(report.evasion, report.clients)
    return Group(*parts)


def _evaluations_table(report: Report) -> Table:
    table = new_table("Test images", text.EVALUATION_COLUMNS)
    for row in text.evaluation_rows(report.evaluations):
        table.add_row(*row)
    return table


def _drops_table(report: Report) -> Table:
    table = new_table("Performance drop", text.DROP_COLUMNS, words=2)
    for row in text.drop_rows(report.drops):
        last = row[1] == text.COMBINED
        table.add_row(*row, style="bold" if last else "", end_section=last)
    return table


def _spread_parts(report: Report) -> list[RenderableType]:
    """Worst cases and spread, and what they mean; nothing for reports of earlier versions."""
    rows = spreads.spread_rows(report)
    if not rows:
        return []
    title = "Worst cases and spread over hospitals and classes"
    table = new_table(title, spreads.spread_columns(report), words=2)
    for place, row in enumerate(rows, 1):
        table.add_row(*row, end_section=place % len(spreads.MEASURES) == 0)
    classes = report.setup.classes if report.setup else ()
    notes = spreads.spread_notes(report, classes)
    return [table, *(Text(line, style="dim") for line in notes)]


def _clients_table(clients: Sequence[ClientResult]) -> Table:
    """One row a client; beyond MOST_CLIENTS the contaminated ones come first and the rest is
    counted."""
    chosen = clients
    if len(clients) > MOST_CLIENTS:
        chosen = sorted(clients, key=lambda one: (one.kind == "clean", one.id))[:MOST_CLIENTS]
    title = "Clients: balanced accuracy on their own test images, Combined drop"
    if any(one.site for one in clients):
        title = "Clients, own reports: balanced accuracy on own test images, Combined drop"
    table = new_table(title, text.CLIENT_COLUMNS, words=2)
    _add_clients(table, text.client_rows(chosen), len(clients))
    return table


def _own_parts(report: Report) -> list[RenderableType]:
    """The clients' own models and the drops over clients; nothing where there are none."""
    parts: list[RenderableType] = []
    if rows := own_models.own_rows(report.clients):
        table = new_table(own_models.OWN_TITLE, own_models.OWN_COLUMNS, words=2)
        _add_clients(table, rows[:MOST_CLIENTS], len(rows))
        parts += [table, Text(own_models.OWN_MEANINGS, style="dim")]
    if rows := own_models.site_drop_rows(report.site_drops):
        table = new_table(own_models.DROPS_TITLE, own_models.DROPS_COLUMNS, words=2)
        for row in rows:
            table.add_row(*row)
        parts.append(table)
    return parts


def _add_clients(table: Table, rows: Sequence[Sequence[str]], total: int) -> None:
    """Rows coloured by the kind in their second cell; the clients without a row are counted."""
    for row in rows:
        table.add_row(*row, style=KIND_STYLES[row[1]])
    if len(rows) < total:
        table.caption = f"and {total - len(rows)} more in report.json"


def _evasion_parts(
    section: EvasionSection, clients: Sequence[ClientResult]
) -> list[RenderableType]:
    """The global model, what columns mean, the clients' own models, and these fused."""
    title = f"Evasion: {text.evasion_title(section)}"
    parts: list[RenderableType] = [_attacks_table(title, section)]
    parts += [Text(line, style="dim") for line in text.evasion_meanings(section)]
    if section.clients:
        own = "Evasion: balanced accuracy of each client's own model on its own test images"
        table = new_table(own, text.member_columns(section), words=2)
        rows = text.member_rows(section, clients)
        _add_clients(table, rows[:MOST_CLIENTS], len(rows))
        parts.append(table)
    if section.fusion is not None:
        parts.append(_attacks_table(text.fusion_title(section, section.fusion), section.fusion))
    return parts


def _attacks_table(title: str, model: AttackedModel) -> Table:
    table = new_table(title, text.EVASION_COLUMNS, words=3)
    for row in text.evasion_rows(model):
        table.add_row(*row)
    return table
