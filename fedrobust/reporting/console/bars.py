"""Moving bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from fedrobust.utils.foreign_text import LINES, escape_text
from fedrobust.utils.output import drop_output

BAR_WIDTH = 24  # columns of the screen, where it has them
A_DAY = 86400.0  # seconds; steps may take minutes, so the speed is the mean over the whole run


class ResultConsole(Console):
    """A console that shows a result, as far as it is read (`| head`)."""

    def on_broken_pipe(self) -> None:
        """Write nothing from here on, at the end of the process neither."""
        self.quiet = True
        drop_output()


class RunConsole(ResultConsole):
    """A console of a run, which continues when its screen is read no longer."""

    def on_broken_pipe(self) -> None:
        """As before, and say that the run continues."""
        super().on_broken_pipe()
        print("standard output is read no longer; the run continues without it", file=sys.stderr)


def whole() -> Column:
    """A column of a bar's line that a narrow screen does not cut, for numbers."""
    return Column(no_wrap=True)


def text_column(text: str) -> TextColumn:
    """A column of a bar's line with words, which a narrow screen shows in several lines. text: as
    of rich, e.g. "{task.description}"."""
    return TextColumn(text, markup=False, table_column=Column(overflow="fold"))


def _bar_columns(text: str) -> tuple[ProgressColumn, ...]:
    """What the line of every bar begins with; a narrow screen shortens the bar and the text."""
    return (
        text_column(text),
        BarColumn(bar_width=None, table_column=Column(max_width=BAR_WIDTH)),
        MofNCompleteColumn(table_column=whole()),
    )


class LiveScreen:
    """Bars that move while something lasts; use it as a context manager, which gives the terminal
    back whatever happens. Where the console is no interactive terminal there are none.

    Args:
        console: where to write.
        columns: of a bar, after its description, the bar, the count and the time.
        refreshes: of the screen in a second.
    """

    def __init__(self, console: Console, *columns: ProgressColumn, refreshes: float) -> None:
        self._console = console
        self._bars = Progress(
            *_bar_columns("{task.description}"),
            TimeElapsedColumn(table_column=whole()),
            *columns,
            console=console,
            speed_estimate_period=A_DAY,
        )
        self._live = (
            Live(get_renderable=self._render, console=console, refresh_per_second=refreshes)
            if console.is_interactive
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _render(self) -> RenderableType:
        """What moves; the bars alone, if a subclass shows no more."""
        return self._bars.get_renderable()

    def _print(self, text: str, style: str = "") -> None:
        """A line above the bars, in the style on a terminal only."""
        print_line(self._console, text, style if self._live is not None else "")


@contextmanager
def transient_bar(console: Console, text: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar that is gone afterwards, on a terminal only. Gives what is called after each of the
    `total` steps."""
    with Progress(
        *_bar_columns(text),
        TimeRemainingColumn(table_column=whole()),
        console=console,
        disable=not console.is_interactive,
        transient=True,
    ) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)


def print_line(console: Console, text: str, style: str = "") -> None:
    """A line on the screen that no width breaks, for text from any source."""
    harmless = escape_text(text, LINES, multiline=True)
    console.print(Text(harmless, style=style), soft_wrap=True, highlight=False)
