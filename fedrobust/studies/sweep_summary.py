"""The table that ends a sweep: a row a job, with the drops of its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from fedrobust.reporting.console import ResultConsole
from fedrobust.reporting.console.tables import new_table
from fedrobust.reporting.report import read_report
from fedrobust.reporting.report.metrics import ConditionDrop
from fedrobust.reporting.text import format_number


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep.

    Attributes:
        settings: the words that differ between the jobs; "" where none does.
        folder: its output folder, None where it failed.
    """

    settings: str
    folder: Path | None


def print_sweep(jobs: Mapping[int, SweepJob]) -> None:
    """Print the table; jobs: by number."""
    ResultConsole().print(sweep_table(jobs))


def sweep_table(jobs: Mapping[int, SweepJob]) -> RenderableType:
    """Settings, balanced accuracy and Combined drops of each job, then where its files are; in %.

    Args:
        jobs: by number, at least one of them finished.

    Raises:
        DataError: a report cannot be read.
    """
    heads = ["Balanced", "Poisoning drop", "Corruption drop"]
    table = new_table("Sweep", ["Job", *heads])
    for number, job in jobs.items():
        table.add_row(f"{number} {job.settings}".rstrip(), *_values(job))
    places = [f"{n}: {one.folder}" for n, one in jobs.items() if one.folder is not None]
    notes = [
        "Balanced accuracy on clean test images, Combined drops with 95 % intervals; all in %, "
        "drops below 0 are gains. Folders by job:",
        *places,
    ]
    return Group(table, *(Text(line, style="dim") for line in notes))


def _values(job: SweepJob) -> Sequence[str]:
    if job.folder is None:
        return ["failed", "", ""]
    report = read_report(job.folder)
    drops = report.drops.present
    return [
        format_number(report.evaluations["clean"].balanced_accuracy),
        *(_drop(drops.get(name)) for name in ("poisoning", "corruption")),
    ]


def _drop(drop: ConditionDrop | None) -> str:
    if drop is None:
        return "-"
    interval = "" if drop.ci95 is None else f" [{drop.ci95[0]:.1f}, {drop.ci95[1]:.1f}]"
    return format_number(drop.combined) + interval
