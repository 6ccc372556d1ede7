"""New values beside stored ones."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from fedrobust.errors import DataError
from fedrobust.studies.reproduction.agreement import MEAN, compare_values
from fedrobust.studies.reproduction.tables import StoredTable, read_values
from tests.helpers.stored_tables import store, values


@pytest.fixture
def table(tmp_path: Path) -> StoredTable:
    return store(tmp_path)


def test_equal_values_lie_within(table: StoredTable) -> None:
    found = compare_values(table.values, values(), table.tolerances)
    # 8 cells of the drop; means of 2 rules, clean and attacked, of both metrics
    assert found.compared.groupby("kind").size().to_dict() == {"cell": 8, "mean": 8}
    assert found.outside.empty
    assert not found.unknown


def test_a_mean_has_a_tolerance_of_its_own(table: StoredTable) -> None:
    # 1.5 more in every run: within 2 in each, beyond 1 in the mean
    found = compare_values(table.values, values(drop=11.5), table.tolerances)
    assert set(found.outside["kind"]) == {MEAN}
    assert found.outside["difference"].tolist() == pytest.approx([1.5] * 4)


def test_one_run_outside_is_named_first(table: StoredTable) -> None:
    new = values()
    place = new.index[(new["seed"] == 1) & (new["metric"] == "drop.poisoning.combined")][0]
    new.loc[place, "value"] += 30
    outside = compare_values(table.values, new, table.tolerances).outside
    # the run by 30 with a tolerance of 2, the mean of two by 15 with one of 1
    assert outside[["kind", "difference"]].to_numpy().tolist() == [["cell", 30], ["mean", 15]]


def test_means_are_of_the_seeds_that_both_have(table: StoredTable) -> None:
    new = values()
    found = compare_values(table.values, new[new["seed"] == 1], table.tolerances)
    means = found.compared[found.compared["kind"] == MEAN]
    assert means["stored"].max() == 51  # of seed 1 alone, not 50.5
    assert found.outside.empty


def test_undefined_agrees_with_undefined_only(table: StoredTable) -> None:
    lost = values()
    lost.loc[lost["metric"] == "drop.poisoning.combined", "value"] = float("nan")
    assert compare_values(lost, lost, table.tolerances).outside.empty
    assert len(compare_values(table.values, lost, table.tolerances).outside) == 8 + 4


def test_cells_that_are_not_stored_are_named(table: StoredTable) -> None:
    new = pd.concat([values(), values()[values()["seed"] == 1].assign(seed=7)])
    found = compare_values(table.values, new, table.tolerances)
    assert found.unknown[0] == "fedavg · none · 0 poisoned · seed 7"
    assert len(found.unknown) == 4
    with pytest.raises(DataError, match="none of the cells that were run is stored"):
        compare_values(table.values, new[new["seed"] == 7], table.tolerances)


def test_a_rule_may_be_called_none_or_nan(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    values().assign(strategy="nan").to_csv(path, index=False)
    assert set(read_values(path)["strategy"]) == {"nan"}
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="has no column contamination, metric"):
        read_values(path)
