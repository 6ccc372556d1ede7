from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from fedrobust.evaluation.statistics import Estimate
from fedrobust.reporting import text as wording
from fedrobust.reporting.console import Display, print_line, summary_table, transient_bar
from fedrobust.reporting.console.live import SHOWN_METRICS, rounds_table
from fedrobust.reporting.console.summary import MOST_CLIENTS
from fedrobust.reporting.results import left_out_files
from fedrobust.studies.meff.scores import METRICS, ScoreRow, scores_table
from fedrobust.types import ClientRecord, Failure, Observer, RoundRecord
from tests.helpers import evasion_reports, reports


def on_screen(report: dict[str, Any], uses: dict[str, int] | None = None) -> str:
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(summary_table(reports.typed(report), uses))
    return console.export_text()


def test_the_summary_fits_80_columns_and_says_everything() -> None:
    text = on_screen(reports.report(), {"root": 84, "proxy": 300})
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for part in (
        "etf_dml · 10 hospitals (3 poisoned, 1 noisy) · 5 rounds · seed 0",
        "the strategy used server data: proxy (300 images), root (84 images)",
        "twin corrupted",
        "63.5 → 51.7",  # total: accuracy of the twin on clean, of the run on corrupted images
        "18.6",  # 100 (63.5 - 51.7) / 63.5
        "19.1 to 25.6",
        "gain 5.0",
        "left out of Combined: F1, Precision",
        "poisoned 36.1 (3)",
        "attack success rate: 11.3",
        "precision 100.0, recall 100.0",
    ):
        assert part in text
    assert text.count("%") == 2  # the unit once, and the title of the interval's column


def numbers(text: str) -> set[str]:
    return set(re.findall(r"-?\d[\d.]*", text))


def all_tables() -> list[tuple[str, RenderableType]]:
    """Every kind of table on the screen, with large numbers and long names."""
    report = {**reports.report(12, 3, 1, True), "evasion": evasion_reports.section()}
    section = evasion_reports.section((4.0,))
    part = {key: section[key] for key in ("clean", "purifier_drop", "attacks")}
    report["evasion"]["fusion"] = {"members": 3, **part}
    report["clients"][0] |= {"site": "a hospital with a long name", "num_examples": 1234567}
    report["drops"]["total"] |= {"combined": -1234.5, "ci95": [-2345.6, -1000.1]}
    records = [
        RoundRecord(number, dict.fromkeys(SHOWN_METRICS, 45.9 + number), (), (), {"train": 1234.5})
        for number in range(100, 104)
    ]
    found = {name: Estimate(55.5, 50.1, 60.2) for name in METRICS}
    scores = [ScoreRow("fusion, trained top", "pgd 8/255", found, Estimate(12.3, -4.5, 100.0))]
    return [
        ("summary", summary_table(reports.typed(report), {"root": 84})),
        ("rounds", rounds_table("clean twin", records)),
        ("meff", scores_table(scores)),
    ]


@pytest.mark.parametrize("width", [40, 50, 60, 80])
@pytest.mark.parametrize("table", all_tables(), ids=lambda one: one[0])
def test_a_narrow_terminal_shows_every_number_whole(
    table: tuple[str, RenderableType], width: int
) -> None:
    shown = {}
    for columns in (width, 200):
        console = Console(record=True, width=columns, file=io.StringIO())
        console.print(table[1])
        shown[columns] = console.export_text()
    assert numbers(shown[width]) == numbers(shown[200])
    assert max(cell_len(line.rstrip()) for line in shown[width].splitlines()) <= width
    assert "…" not in shown[width]


@pytest.mark.parametrize("width", [40, 50, 60, 80])
def test_a_narrow_terminal_shows_the_counts_of_its_bars_whole(width: int) -> None:
    console, file = terminal(width)
    with Display(console) as display:
        display.run_started("clean twin", 1000, 2500)
        for client in range(987):
            display._now["clients"] = "train"
            display._bars.update(display._clients_bar, completed=client + 1, visible=True)
        display._bars.update(display._rounds_bar, completed=123)
        console.print(display._bars.get_renderable())
    assert "123/1000" in file.getvalue()
    assert "987/2500" in file.getvalue()


def test_a_gain_has_no_sign() -> None:
    assert wording.drop_text(-24.4) == "gain 24.4"
    assert wording.drop_text(24.4) == "24.4"
    assert wording.drop_text(-0.01) == "0.0"
    assert wording.drop_text(None) == "-"


def test_names_of_sites_are_shown_as_they_are() -> None:
    report = reports.report()
    report["clients"][0]["site"] = "[b]:x:"
    report["clients"][1]["sites"] = ["$z$"]
    report["clients"][2]["sites"] = ["lyon", "graz"]
    text = on_screen(report)
    assert "0 [b]:x:" in text
    assert "1 $z$" in text
    rows = wording.client_rows(reports.typed(report).clients)
    assert [row[0] for row in rows[:4]] == ["0 [b]:x:", "1 $z$", "2 lyon + graz", "3"]


def test_results_of_real_sites_are_marked_as_their_own_reports() -> None:
    report = reports.report()
    assert wording.SELF_REPORTED not in on_screen(report)
    report["drops"]["clients"] |= {"self_reported": True, "median": -9.8}
    report["clients"][0]["site"] = "vienna"
    text = on_screen(report)
    assert max(map(len, text.splitlines())) <= 80
    for part in (wording.SELF_REPORTED, "Clients, own reports: ", "of medians", "gain 9.8"):
        assert part in text


def test_files_left_out_are_on_the_screen() -> None:
    files = {f"nevus/{row:02}.dcm": "it is no JPEG" for row in range(12)}
    section = reports.plain_section(left_out_files(files))
    text = " ".join(on_screen(reports.report() | {"left_out_files": section}).split())
    assert "files left out of the data set: 12, the first is nevus/00.dcm (it is no JPEG)" in text
    assert "left out of the data set" not in on_screen(reports.report())


@pytest.mark.parametrize("shape", [(1, 0, 0, False), (1, 1, 0, True), (100, 30, 10, True)])
def test_edge_cases_of_the_summary(shape: tuple[int, int, int, bool]) -> None:
    report = reports.report(*shape)
    report["clients"][0] |= {
        "clean": reports.undefined(),
        "contaminated": reports.undefined(),
        "combined_drop": None,
    }
    report["evaluations"]["corrupted_severity_5"] = reports.evaluation(30.0)
    text = on_screen(report)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "None" not in text
    assert ("twin clean" in text) == shape[3]
    assert ("60 more in report.json" in text) == (shape[0] - MOST_CLIENTS == 60)
    assert ("attack success" in text) == (shape[1] > 0)


def test_large_numbers_fit() -> None:
    report = reports.report()
    report["drops"]["total"] |= {"combined": -1234.5, "ci95": [-2345.6, -1000.1]}
    report["clients"][0] |= {
        "id": 12345,
        "num_examples": 1234567,
        "weight": 1.0,
        "combined_drop": -1234.5,
    }
    report["poisoned"] = [12345, 1, 2]
    text = on_screen(report)
    assert "gain 1234.5" in text
    assert "-2345.6 to -1000.1" in text
    assert "1234567" in text
    assert "…" not in text


def test_words_of_small_values() -> None:
    assert [wording.format_number(value) for value in (None, -0.04, 0.0, 12.34, -12.36)] == [
        "-",
        "0.0",
        "0.0",
        "12.3",
        "-12.4",
    ]
    assert [wording.drop_text(value) for value in (None, -0.04, -0.06, 3.0)] == [
        "-",
        "0.0",
        "gain 0.1",
        "3.0",
    ]


def drive(display: Observer) -> None:
    """Two runs of two rounds with three clients; client 2 fails in round 1 of both, with one and
    the same traceback."""
    for run in ("run", "clean twin"):
        display.run_started(run, 2, 3)
        for number in range(3):
            display.round_started(run, number)
            for client in range(3 if number else 0):
                display.client_done(run, "train", client, failed=number == 1 and client == 2)
            display.stage(run, f"aggregate with \x1b[31mrule [red]{number}[/red]")
            failures = (
                (Failure(2, "ValueError: \x1b[2Jbad [bold]label", "Traceback: the only one\n"),)
                if number == 1
                else ()
            )
            clients = tuple(ClientRecord(c, 10, 0.5, {}) for c in (0, 1)) if number else ()
            metrics = {"accuracy": 50.0 + number, "balanced_accuracy": 40.0, "f1": None}
            display.round_finished(
                run,
                RoundRecord(number, metrics, clients, failures, {"train": 1.25, "evaluate": 0.5}),
            )


def test_plain_lines_where_there_is_no_terminal() -> None:
    file = io.StringIO()
    with Display(Console(file=file, width=40)) as display:
        drive(display)
    lines = file.getvalue().splitlines()
    assert all(character.isprintable() for line in lines for character in line)
    assert lines[:5] == [
        "run: 2 rounds, 3 clients",
        "run: aggregate with \\x1b[31mrule [red]0[/red]",
        "run: round 0/2: Accuracy 50.0, Balanced 40.0, F1 - % (1.8 s, 0 clients)",
        "run: client 2 failed (train)",
        "run: aggregate with \\x1b[31mrule [red]1[/red]",
    ]
    assert (
        "run: round 1/2: Accuracy 51.0, Balanced 40.0, F1 - % (1.8 s, 2 clients, 1 failed)" in lines
    )
    assert lines.count("run: round 1: client 2 failed: ValueError: \\x1b[2Jbad [bold]label") == 1
    assert lines.count("Traceback: the only one") == 1
    # per run: start, rounds, stages, two lines of failure; one traceback
    assert len(lines) == 2 * (1 + 3 + 3 + 2) + 1


def test_steps_that_were_skipped_are_said() -> None:
    file = io.StringIO()
    with Display(Console(file=file, width=40)) as display:
        display.round_finished(
            "run", RoundRecord(1, {}, extras={"distillation_skipped": 1.0, "fallbacks": 2.0})
        )
    assert file.getvalue().splitlines()[1:] == [
        "run: round 1: the strategy had to skip distillation"
    ]


def terminal(width: int = 80) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(
        file=file,
        force_terminal=True,
        force_interactive=True,
        width=width,
        height=30,
        _environ={"TERM": "xterm-256color"},
    ), file


def test_the_live_display_shows_bars_tables_and_failures() -> None:
    console, file = terminal()
    with Display(console) as display:
        drive(display)
    shown = file.getvalue()
    for part in (
        "clients: train",
        "run: validation, %",
        "clean twin: validation, %",
        "client 2 failed: ValueError: \\x1b[2Jbad [bold]label",
    ):
        assert part in shown
    assert "\x1b[2J" not in shown  # a foreign message cannot clear the screen
    assert shown.count("Traceback: the only one") == 1
    assert "…" not in shown


def test_rounds_of_an_earlier_process_fill_the_bar_and_the_table_but_are_not_told_again() -> None:
    records = [RoundRecord(number, {"accuracy": 40.0 + number}) for number in range(5)]
    console, written = terminal()
    with Display(console) as display:
        display.run_started("run", 9, 3)
        display.rounds_restored("run", records)
    text = written.getvalue()
    assert "4/9" in text
    assert "44.0" in text
    plain = io.StringIO()
    with Display(Console(file=plain)) as display:
        display.run_started("run", 9, 3)
        display.rounds_restored("run", records)
    assert plain.getvalue() == "run: 9 rounds, 3 clients\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_terminal_is_given_back_after_errors(error: type[BaseException]) -> None:
    console, file = terminal()
    display = Display(console)

    def interrupted_run() -> None:
        with display:
            display.run_started("run", 2, 3)
            raise error

    with pytest.raises(error):
        interrupted_run()
    assert file.getvalue().count("\x1b[?25l") == 1  # cursor hidden
    assert file.getvalue().rstrip().endswith("\x1b[?25h")  # and shown again
    console.print("after")
    assert file.getvalue().endswith("after\n")


def test_what_others_wrote_is_shown_escaped() -> None:
    file = io.StringIO()
    print_line(Console(file=file, width=40), "a\x1b[31mb\r\x07c\nd\x9be\x7f\u202ef\u2028")
    assert file.getvalue() == "a\\x1b[31mb\\x0d\\x07c\nd\\x9be\\x7f\\u202ef\\u2028\n"


def test_a_transient_bar_counts_on_a_terminal_and_says_nothing_elsewhere() -> None:
    shown, silent = io.StringIO(), io.StringIO()
    for file, terminal in ((shown, True), (silent, False)):
        console = Console(file=file, width=80, force_terminal=terminal)
        with transient_bar(console, "checking", 2) as advance:
            advance()
            advance()
    assert "checking" in shown.getvalue()
    assert "2/2" in shown.getvalue()
    assert silent.getvalue() == ""
