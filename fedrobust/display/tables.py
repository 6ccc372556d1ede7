"""How the tables of the final screen look."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

KIND_STYLES = {"clean": "", "noisy": "yellow", "poisoned": "red"}


def plain_table(title: str, *columns: str, left: int = 1) -> Table:
    """A table whose first `left` columns are words, the others numbers."""
    made = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for place, name in enumerate(columns):
        made.add_column(name, justify="left" if place < left else "right", overflow="fold", no_wrap=place >= left)
    return made
