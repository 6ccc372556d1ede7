"""From the words of `fedrobust reproduce` to a part of the table's grid."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrobust.errors import ConfigError
from fedrobust.studies.reproduction.selection import select_grid
from fedrobust.studies.reproduction.tables import StoredTable, read_table, table_names
from tests.helpers.stored_tables import DEFINITION, store


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> StoredTable:
    return store(tmp_path_factory.mktemp("tables"))


def test_all_of_it(table: StoredTable) -> None:
    grid = select_grid(table, [], quick=False)
    assert [one.name for one in grid.strategies] == ["fedavg", "gentle krum"]
    assert (grid.poisoned, grid.seeds) == ((0, 1), (0, 1))
    assert grid.out == Path("outputs/reproduce/small")


def test_a_part_by_its_names_and_where_it_runs(table: StoredTable) -> None:
    words = ["strategies=[gentle krum]", "compare.seeds=1", "out=here", "parallel=3", "device=cpu"]
    grid = select_grid(table, words, quick=False)
    assert [one.name for one in grid.strategies] == ["gentle krum"]
    assert (grid.seeds, grid.out, grid.parallel) == ((1,), Path("here"), 3)
    assert "device=cpu" in grid.words


def test_a_name_with_a_comma_stands_in_quotes(tmp_path: Path) -> None:
    table = store(tmp_path, "{about: x, command: [experiment=long_attacks], tolerances: {}}")
    words = ["contaminations=['alie, own noise',min_max]"]
    chosen = select_grid(table, words, quick=False).contaminations
    assert [one.name for one in chosen] == ["alie, own noise", "min_max"]


def test_the_quick_part_unless_words_name_one(table: StoredTable) -> None:
    quick = select_grid(table, [], quick=True)
    assert ([one.name for one in quick.strategies], quick.seeds) == (["gentle krum"], (1,))
    assert select_grid(table, ["seeds=[0]"], quick=True).seeds == (0,)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("rounds=3", "rounds=3: changes what is run, .* or run fedrobust compare experiment=smoke"),
        ("strategy=krum", "strategy=krum: changes what is run"),
        ("seeds=[7]", "seeds=7: is not in the table; it has 0, 1"),
        ("strategies=[fedavgg]", "did you mean fedavg[?] it has fedavg, gentle krum"),
        ("strategies=[{a: b}]", "must be a list of names of the table's own"),
        ("seeds=[0", "seeds=.0: cannot be read; write seeds="),
    ],
)
def test_what_would_change_the_values_is_refused(word: str, line: str, table: StoredTable) -> None:
    with pytest.raises(ConfigError, match=line):
        select_grid(table, [word], quick=False)


def test_what_a_reader_must_give(tmp_path: Path) -> None:
    table = store(tmp_path, DEFINITION + "needs: {data.seed: a number of your own}\n")
    with pytest.raises(ConfigError, match=r"data\.seed: is missing, a number of your own; set"):
        select_grid(table, [], quick=False)
    assert "data.seed=3" in select_grid(table, ["data.seed=3"], quick=False).words


@pytest.mark.parametrize(
    ("definition", "line"),
    [
        ("[1, 2", "table.yaml: cannot be read as yaml"),
        ("about: x", "small.command: is missing"),
        (DEFINITION + "magic: 1", "small.magic=1: unknown setting"),
        (DEFINITION.replace("mean: 0.5", "mean: -1"), r"mean=-1: must be .*at least 0"),
    ],
)
def test_a_wrong_definition_is_refused(definition: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=line):
        store(tmp_path, definition)


@pytest.mark.parametrize("name", table_names())
def test_published_tables_can_be_run_and_their_values_are_whole(name: str) -> None:
    table = read_table(name)
    words = [f"{key}=x" for key in table.settings.needs]
    grid = select_grid(table, words, quick=False)
    quick = table.settings.quick
    assert {*quick.get("seeds", ())} <= {*grid.seeds}
    assert {*quick.get("strategies", ())} <= {one.name for one in grid.strategies}
    assert {*quick.get("contaminations", ())} <= {one.name for one in grid.contaminations}
    stored = table.values
    assert set(stored["strategy"]) == {one.name for one in grid.strategies}
    assert set(stored["contamination"]) - {"none"} == {one.name for one in grid.contaminations}
    assert set(stored["seed"]) == set(grid.seeds)
    assert set(table.tolerances) <= set(stored["metric"])
    assert not stored.duplicated(["strategy", "contamination", "poisoned", "seed", "metric"]).any()
