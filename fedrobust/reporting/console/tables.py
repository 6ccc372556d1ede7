"""The one look of all tables on the screen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from copy import copy

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.style import StyleType
from rich.table import Column, Table
from rich.text import Text

LEAST_WORDS = 8  # columns of the screen below which a column of words is not narrowed


class PlainTable(Table):
    """A table whose texts are shown as they are (no markup, no emoji names) and whose numbers are
    shown whole: columns of words are folded where the screen is narrow, and where that is not
    enough each row becomes a list, a line for each of its numbers."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self._widths(console, options)
        if widths is None:
            yield from self._as_lists()
            return
        fitted = copy(self)
        fitted.columns = [copy(column) for column in self.columns]
        for place, width in widths.items():
            fitted.columns[place].width = width
        yield from Table.__rich_console__(fitted, console, options)

    def _widths(self, console: Console, options: ConsoleOptions) -> dict[int, int] | None:
        """The width of each column of words by its place; None where the table does not fit."""
        whole = Measurement.get(console, options.update(max_width=10**6), self).maximum
        words = {place: column for place, column in enumerate(self.columns) if not column.no_wrap}
        widths = {place: _widest(_lines(column)) for place, column in words.items()}
        least = {place: _least_width(column) for place, column in words.items()}
        for _ in range(whole - options.max_width):
            wide = [place for place in widths if widths[place] > least[place]]
            if not wide:
                return None
            widths[max(wide, key=widths.__getitem__)] -= 1
        return widths

    def _as_lists(self) -> Iterator[Text]:
        """The title; of each row its words in a line, then a line for each number."""
        yield Text(str(self.title or ""), style="bold")
        heads = [str(column.header) for column in self.columns]
        for row, cells in zip(
            self.rows, zip(*(column.cells for column in self.columns), strict=True), strict=True
        ):
            texts = [cell.plain if isinstance(cell, Text) else str(cell) for cell in cells]
            wordy = [
                text
                for text, column in zip(texts, self.columns, strict=True)
                if text and not column.no_wrap
            ]
            style = row.style or ""
            if wordy:
                yield Text(" · ".join(wordy), style=style)
            yield from (
                Text(f"  {head}: {text}", style=style)
                for head, text, column in zip(heads, texts, self.columns, strict=True)
                if text and column.no_wrap
            )
        if self.caption:
            yield Text(str(self.caption))

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


def _lines(column: Column) -> list[str]:
    """The texts of a column, its head included."""
    cells = [column.header, *column.cells]
    return [cell.plain if isinstance(cell, Text) else str(cell) for cell in cells]


def _widest(texts: Sequence[str]) -> int:
    return max((Text(text).cell_len for text in texts), default=0)


def _least_width(column: Column) -> int:
    """The least width of a column of words in which none of its numbers is folded."""
    words = [word for text in _lines(column) for word in text.split()]
    numbers = [word for word in words if re.search(r"\d", word)]
    return max(_widest(numbers), min(LEAST_WORDS, _widest(words)))
