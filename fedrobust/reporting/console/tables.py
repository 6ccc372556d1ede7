"""The one look of all tables on the screen."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text


def new_table(title: str, columns: Iterable[str], *, words: int = 1) -> Table:
    """An empty table.

    Args:
        title: shown above it, to the left; what looks like markup is shown literally.
        columns: their heads.
        words: how many of the first columns hold words, at least 0; these stand to the left and
            may be folded, the numbers in the others stand to the right and may not.

    Returns:
        A table without rows.
    """
    made = Table(
        box=SIMPLE_HEAD,
        title=Text(title),
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for place, name in enumerate(columns):
        made.add_column(
            name,
            justify="left" if place < words else "right",
            overflow="fold",
            no_wrap=place >= words,
        )
    return made
