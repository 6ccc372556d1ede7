"""Moving bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

import logging
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
from fedrobust.utils.notices import log, note
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
        note("standard output is read no longer; the run continues without it")


def make_console(*, quiet: bool = False) -> RunConsole:
    """The console of a run. quiet: one that shows nothing but `print_last_line`."""
    return RunConsole(quiet=quiet, force_interactive=False if quiet else None)


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

    def _print(self, text: str, style: str = "", level: int = logging.INFO) -> None:
        """A line above the bars, in the style on a terminal only. level: of the log."""
        print_line(self._console, text, style if self._live is not None else "", level)


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


def print_line(console: Console, text: str, style: str = "", level: int = logging.INFO) -> None:
    """A line on the screen that no width breaks, for text from any source, which is logged too.
    level: of the log."""
    harmless = escape_text(text, LINES, multiline=True)
    log(level, harmless)
    console.print(Text(harmless, style=style), soft_wrap=True, highlight=False)


def print_last_line(console: Console, text: str) -> None:
    """The line that ends a command, which a quiet console shows too."""
    print_line(console, text)
    if console.quiet:
        print(escape_text(text, LINES, multiline=True), flush=True)
