"""Pages from templates and stored values."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from fedrobust.errors import DataError
from fedrobust.studies.comparison import leaderboard
from fedrobust.studies.comparison.summary import (
    drop_table,
    plain_cells,
    sections,
    summarise,
    summary_frame,
)
from fedrobust.studies.reproduction.page import (
    TEMPLATE,
    page_path,
    render_page,
    wrap_prose,
)
from fedrobust.studies.reproduction.tables import read_table, table_names
from tests.helpers.comparisons import findings
from tests.helpers.stored_tables import NAME, store

PAGES = [name for name in table_names() if (read_table(name).folder / TEMPLATE).exists()]


@pytest.mark.parametrize("name", PAGES)
def test_a_published_page_is_what_its_stored_values_give(name: str) -> None:
    table = read_table(name)
    assert page_path(table).read_text(encoding="utf-8") == render_page(table), (
        f"run python docs/generate_results.py {name}"
    )


def test_there_is_a_page() -> None:
    assert "leaderboard" in PAGES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small table with the summary of a comparison."""
    place = tmp_path_factory.mktemp("tables")
    store(place)
    found = findings(tmp_path_factory.mktemp("cells"), seeds=(0, 1), counts=(3,), draws=50)
    rankings = leaderboard.rankings_of(found)
    frame = summary_frame(summarise(found, rankings))
    frame.to_csv(place / NAME / "summary.csv", index=False)
    shown = leaderboard.leaderboard(found, rankings, [])
    (place / "leaderboard.md").write_text(shown, encoding="utf-8")
    (place / "mean.txt").write_text(str(drop_table(found, rankings[3], 3).rows[0].entries[2][1]))
    (place / "clean.txt").write_text(plain_cells(sections(found)[0].rows)[1][0][1])
    return place


def page(folder: Path, template: str) -> str:
    (folder / NAME / TEMPLATE).write_text(template, encoding="utf-8")
    return render_page(read_table(NAME, folder))


def test_tables_are_those_of_the_leaderboard(folder: Path) -> None:
    shown = (folder / "leaderboard.md").read_text(encoding="utf-8")
    for call in ('"drops", poisoned=3', '"clean"', '"detection"', '"cost"'):
        made = page(folder, f"{{{{ table({call}) }}}}").split("\n\n")[1].strip()
        assert made.startswith("| Rule |")
        assert made in shown, call


def test_numbers_in_prose_are_those_of_the_tables(folder: Path) -> None:
    best = page(folder, '{{ table("drops", poisoned=3, columns=["Mean"]) }}').split("| ")[5]
    rule = best.split(" †")[0].strip()
    call = f'"drops", "{rule}", "Mean", poisoned=3'
    assert (folder / "mean.txt").read_text() in page(
        folder, f"{{{{ value({call}, interval=true) }}}}"
    )
    clean = (folder / "clean.txt").read_text().split(" ")[0]
    assert page(folder, '{{ value("clean", "good", "Macro F1") }}').split("\n")[2] == clean


def test_rules_with_several_rows(folder: Path) -> None:
    path = folder / NAME / "summary.csv"
    frame = pd.read_csv(path, keep_default_na=False)
    rows = [
        {"table": "own", "poisoned": 3, "rule": "good", "column": column, "text": text}
        for model, lost in (("global", "9"), ("own", "1"))
        for column, text in (("Model", model), ("lost", lost))
    ]
    pd.concat([frame, pd.DataFrame(rows)]).fillna("").to_csv(path, index=False)
    made = page(
        folder,
        '{{ table("own", poisoned=3) }}\n\n{{ value("own", "good", "lost", poisoned=3) }} and '
        '{{ value("own", "good", "lost", poisoned=3, Model="own") }}',
    )
    assert "| good | global | 9 |\n| good | own | 1 |" in made
    assert made.rstrip().endswith("9 and 1")
    with pytest.raises(DataError, match="own has no rule good"):
        page(
            folder,
            '{{ value("own", "good", "lost", poisoned=3, Model="none") }}',
        )


def test_means_of_single_runs_by_hand(folder: Path) -> None:
    made = page(
        folder,
        '{{ runs("drop.poisoning.combined", poisoned=1) }}\n\n'
        '{{ runs({"clean.f1": "F1"}, poisoned=1, strategy="fedavg") }}\n\n'
        '{{ mean("clean.f1", digits=2, poisoned=1) }}\n',
    )
    # 10 and 11: mean 10.5, standard deviation 0.71
    assert "| fedavg | 10.5 ± 0.7 |\n| gentle krum | 10.5 ± 0.7 |" in made
    assert "| Rule | F1 |\n| :-- | --: |\n| fedavg | 50.5 ± 0.7 |" in made
    assert made.rstrip().endswith("50.50")


def test_the_command_and_where_the_values_come_from(folder: Path) -> None:
    (folder / NAME / "origin.yaml").write_text("commit: abc1234\nhours: 2.5\n")
    made = page(folder, "{{ command() }}, {{ origin.commit }}, {{ origin.hours }} hours")
    assert "python -m fedrobust.compare experiment=smoke" in made
    assert "abc1234, 2.5 hours" in made
    assert "made from docs/results/small/page.md.j2" in made.split("\n")[0]


@pytest.mark.parametrize(
    "template",
    [
        '{{ table("nothing") }}',
        '{{ value("drops", "good", "nothing", poisoned=3) }}',
        '{{ value("drops", "nobody", "Mean", poisoned=3) }}',
        '{{ runs("nothing") }}',
        "{{ typo }}",
        "{{ typo",
    ],
)
def test_what_is_not_stored_is_refused(template: str, folder: Path) -> None:
    with pytest.raises(DataError):
        page(folder, template)


def test_paragraphs_and_lists_are_wrapped_and_nothing_else() -> None:
    words = "word " * 30
    text = (
        f"# {words}\n\n{words}\n\n* {words}\n  more\n* next\n\n| {words} |\n\n```\n{words}\n```\n"
    )
    made = wrap_prose(text)
    lines = made.split("\n")
    assert lines[0] == f"# {words}"
    assert [line for line in lines if len(line) > 100] == [f"# {words}", f"| {words} |", words]
    assert made.split() == text.split()
    assert any(line.startswith("* word") for line in lines)
    assert any(line.startswith("  word") for line in lines)
    assert "* next" in lines
    assert wrap_prose(made) == made
