"""The table that ends a sweep."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from fedrobust.reporting.report import write_report
from fedrobust.studies.sweep_summary import SweepJob, sweep_table
from tests.helpers import reports


def lines(jobs: dict[int, SweepJob]) -> list[str]:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(sweep_table(jobs))
    return [line.strip() for line in captured.get().splitlines()]


def test_a_row_a_job_with_the_numbers_of_its_report(tmp_path: Path) -> None:
    made = reports.typed(reports.report())
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    write_report(tmp_path / "0", made)
    write_report(tmp_path / "1", reports.typed(reports.report(twin=False)))
    found = lines(
        {
            0: SweepJob("strategy=fedavg", tmp_path / "0"),
            1: SweepJob("strategy=median", tmp_path / "1"),
            2: SweepJob("strategy=magic", None),
        }
    )
    rows = {line.split()[1]: line.split()[2:] for line in found if " strategy=" in line}
    balanced = f"{made.evaluations['clean'].balanced_accuracy:.1f}"
    poisoning, corruption = made.drops.poisoning, made.drops.corruption
    assert poisoning is not None
    assert rows["strategy=fedavg"][:2] == [balanced, f"{poisoning.combined:.1f}"]
    assert f"{corruption.combined:.1f}" in rows["strategy=fedavg"]
    assert rows["strategy=median"][:2] == [balanced, "-"]  # without a twin there is no such drop
    assert rows["strategy=magic"] == ["failed"]
    assert [line for line in found if line[:3] in ("0: ", "1: ", "2: ")] == [
        f"0: {tmp_path / '0'}",
        f"1: {tmp_path / '1'}",
    ]
