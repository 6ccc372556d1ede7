"""The part of the final screen that tells of evasion attacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fedrobust import wording
from fedrobust.display.tables import KIND_STYLES, plain_table


def evasion_parts(section: Mapping[str, Any], most_clients: int) -> list[RenderableType]:
    """The report's section `evasion`: the global model, what columns mean, the clients' own models (at most so many), and these fused."""
    whole = _whole(f"Evasion: {section['attack']} on the global model, {section['images']} test images", section)
    parts: list[RenderableType] = [whole, *(Text(line, style="dim") for line in wording.evasion_meanings(section))]
    if section["clients"]:
        parts.append(_members(section, most_clients))
    if "fusion" in section:
        parts.append(_whole(wording.fusion_title(section), section["fusion"]))
    return parts


def _whole(title: str, part: Mapping[str, Any]) -> Table:
    out = plain_table(title, *wording.EVASION_COLUMNS, left=3)
    for row in wording.evasion_rows(part):
        out.add_row(*row)
    return out


def _members(section: Mapping[str, Any], most: int) -> Table:
    rows = wording.member_rows(section)
    own = plain_table(
        "Evasion: balanced accuracy of each client's own model on its own test images", *wording.member_columns(section), left=2
    )
    for row in rows[:most]:
        own.add_row(*row, style=KIND_STYLES[row[1]])
    if len(rows) > most:
        own.caption = f"and {len(rows) - most} more in report.json"
    return own
