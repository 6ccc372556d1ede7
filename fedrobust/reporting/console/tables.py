"""The one look of all tables on the screen."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.style import StyleType
from rich.table import Table
from rich.text import Text


class PlainTable(Table):
    """A table whose texts are shown as they are: no markup, no emoji names."""

    def add_row(
        self,
        *renderables: RenderableType | None,
        style: StyleType | None = None,
        end_section: bool = False,
    ) -> None:
        """A row of cells."""
        cells = [Text(one) if isinstance(one, str) else one for one in renderables]
        super().add_row(*cells, style=style, end_section=end_section)


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
    made = PlainTable(
        box=SIMPLE_HEAD,
        title=Text(title),
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for place, name in enumerate(columns):
        made.add_column(
            Text(name),
            justify="left" if place < words else "right",
            overflow="fold",
            no_wrap=place >= words,
        )
    return made
