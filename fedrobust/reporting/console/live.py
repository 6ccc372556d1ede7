"""An Observer for the screen: moving bars and a small table on a terminal, plain lines anywhere
else."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rich.console import Console, Group
from rich.progress import TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fedrobust.reporting.console.bars import LiveScreen, whole
from fedrobust.reporting.console.tables import new_table
from fedrobust.reporting.text import format_number, metric_label
from fedrobust.types import Failure, RoundRecord
from fedrobust.utils.counting import format_count
from fedrobust.utils.foreign_text import escape_text
from fedrobust.utils.notices import log

SHOWN_METRICS = ("accuracy", "balanced_accuracy", "f1")
SHOWN_ROUNDS = 6


class Display(LiveScreen):
    """Shows a run while it happens; use it as a context manager, which gives the terminal back
    whatever happens.

    console: where to write (default: standard output). Where that is no interactive terminal, one
    plain line without control characters is written for every stage, round and failure.
    """

    def __init__(self, console: Console | None = None) -> None:
        # replaced, never changed: the refreshing thread reads it, from the start on
        self._records: tuple[RoundRecord, ...] = ()
        self._now: dict[str, str] = {"run": "", "stage": "", "clients": ""}
        self._totals = {"rounds": 0, "clients": 0}
        self._tracebacks: set[str] = set()
        super().__init__(
            Console() if console is None else console,
            TextColumn("left", table_column=whole()),
            TimeRemainingColumn(table_column=whole()),
            refreshes=4,
        )
        self._rounds_bar = self._bars.add_task("rounds", total=None, visible=False)
        self._clients_bar = self._bars.add_task("clients", total=None, visible=False)

    def run_started(self, run: str, rounds: int, num_clients: int) -> None:
        if self._live is not None and self._records:
            self._console.print(rounds_table(self._now["run"], self._records))
        self._records = ()
        self._now = {"run": run, "stage": "", "clients": ""}
        self._totals = {"rounds": rounds, "clients": num_clients}
        self._bars.reset(self._rounds_bar, total=rounds, visible=True, description=run)
        self._bars.reset(self._clients_bar, total=num_clients, visible=False)
        self._line(f"{run}: {format_count(rounds, 'round')}, {format_count(num_clients, 'client')}")

    def round_started(self, run: str, number: int) -> None:
        self._now["clients"] = ""
        self._bars.reset(self._clients_bar, visible=False)

    def client_done(self, run: str, stage: str, client: int, failed: bool) -> None:
        if stage != self._now["clients"]:
            self._now["clients"] = stage
            self._bars.reset(
                self._clients_bar, visible=True, description=f"clients: {escape_text(stage)}"
            )
        self._bars.advance(self._clients_bar)
        if failed:
            self._warn(f"{run}: client {client} failed ({stage})")

    def stage(self, run: str, text: str) -> None:
        self._now["stage"] = escape_text(text)
        self._line(f"{run}: {text}")
        self._refresh()

    def round_finished(self, run: str, record: RoundRecord) -> None:
        self._records = (*self._records, record)[-SHOWN_ROUNDS:]
        self._bars.update(self._rounds_bar, completed=record.number)
        self._bars.update(self._clients_bar, visible=False)
        self._now["stage"] = ""
        self._line(f"{run}: round {record.number}/{self._totals['rounds']}: {round_text(record)}")
        if left_out := skipped_steps(record):
            self._print(
                f"{run}: round {record.number}: the strategy had to skip {', '.join(left_out)}",
                "yellow",
                logging.WARNING,
            )
        for failure in record.failures:
            self._failure(run, record.number, failure)
        self._refresh()

    def rounds_restored(self, run: str, records: Sequence[RoundRecord]) -> None:
        """They were shown when they happened."""
        self._records = tuple(records)[-SHOWN_ROUNDS:]
        self._bars.update(self._rounds_bar, completed=records[-1].number)
        self._refresh()

    def _refresh(self) -> None:
        """Show a change at once that would wait for the next tick."""
        if self._live is not None:
            self._live.refresh()

    def _failure(self, run: str, number: int, failure: Failure) -> None:
        """The reason at once; a traceback below it, unless the very same one was shown before."""
        what = "failed: " if failure.counts else ""
        self._warn(f"{run}: round {number}: client {failure.client} {what}{failure.reason}")
        if failure.traceback and failure.traceback not in self._tracebacks:
            self._tracebacks.add(failure.traceback)
            self._print(failure.traceback.rstrip(), "dim")

    def _line(self, text: str) -> None:
        """A line for those who see no bars."""
        if self._live is None:
            self._print(text)
        else:
            log(logging.INFO, text)

    def _warn(self, text: str) -> None:
        self._print(text, "bold red", logging.WARNING)

    def _render(self) -> Group:
        parts = [self._bars.get_renderable(), Text(self._now["stage"], style="cyan")]
        return (
            Group(rounds_table(self._now["run"], self._records), *parts)
            if self._records
            else Group(*parts)
        )


def round_text(record: RoundRecord) -> str:
    """One round in one line, metrics in percent."""
    metrics = ", ".join(
        f"{metric_label(name)} {format_number(record.metrics.get(name))}" for name in SHOWN_METRICS
    )
    lost = sum(one.counts for one in record.failures)
    failed = f", {lost} failed" if lost else ""
    spent = (
        f", epsilon {format_number(record.extras['epsilon'])}" if "epsilon" in record.extras else ""
    )
    trained = format_count(len(record.clients), "client")
    return f"{metrics} % ({seconds(record):.1f} s, {trained}{failed}{spent})"


def skipped_steps(record: RoundRecord) -> list[str]:
    """The steps that the strategy was asked for and could not do, e.g. distillation without proxy
    images."""
    return [
        name.removesuffix("_skipped")
        for name, value in record.extras.items()
        if name.endswith("_skipped") and value
    ]


def seconds(record: RoundRecord) -> float:
    """Seconds of all stages together."""
    return sum(record.seconds.values())


def rounds_table(run: str, records: Sequence[RoundRecord]) -> Table:
    """The last rounds: validation metrics in percent, seconds and failures."""
    columns = ("Round", *map(metric_label, SHOWN_METRICS), "Seconds", "Failures")
    table = new_table(f"{run}: validation, %", columns, words=0)
    for record in records:
        values = [format_number(record.metrics.get(name)) for name in SHOWN_METRICS]
        failures = Text(str(len(record.failures)), style="bold red" if record.failures else "dim")
        table.add_row(str(record.number), *values, f"{seconds(record):.1f}", failures)
    return table
