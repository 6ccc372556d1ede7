"""Whether new values agree with stored ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from fedrobust.errors import DataError
from fedrobust.studies.reproduction.tables import KEYS, Tolerance

CELL, MEAN = "cell", "mean"
MEAN_KEYS: Final = [key for key in KEYS if key != "seed"]
COLUMNS: Final = ("kind", *KEYS, "stored", "new", "difference", "tolerance", "within")


@dataclass(frozen=True)
class Agreement:
    """New values beside the stored ones.

    Attributes:
        compared: COLUMNS, a row a value: of cells, and of means over the seeds that both have; a
            mean's seed is empty.
        unknown: cells that were run and are not stored.
    """

    compared: pd.DataFrame
    unknown: Sequence[str]

    @property
    def outside(self) -> pd.DataFrame:
        """The values that lie too far off, the farthest first."""
        rows = self.compared[~self.compared["within"]]
        excess = rows["difference"].abs() - rows["tolerance"]
        return rows.loc[excess.sort_values(ascending=False, na_position="first").index]


def compare_values(
    stored: pd.DataFrame, new: pd.DataFrame, tolerances: Mapping[str, Tolerance]
) -> Agreement:
    """Compare the values of all cells that both have, and the means over their seeds.

    Args:
        stored: of the table.
        new: of the comparison that was run.
        tolerances: by metric; other metrics are not compared.

    Raises:
        DataError: they have no cell in common.
    """
    pairs = _pairs(stored, new, list(tolerances))
    if pairs.empty:
        raise DataError("none of the cells that were run is stored; nothing can be compared")
    cells = _judge(pairs.assign(kind=CELL), {name: one.cell for name, one in tolerances.items()})
    means = pairs.groupby(MEAN_KEYS, sort=False, as_index=False)[["stored", "new"]].mean()
    judged = _judge(
        means.assign(kind=MEAN, seed=np.nan), {name: one.mean for name, one in tolerances.items()}
    )
    parts = [one for one in (cells, judged) if not one.empty]
    empty = pd.DataFrame({name: pd.Series(dtype=bool) for name in COLUMNS})
    compared = pd.concat(parts, ignore_index=True) if parts else empty
    return Agreement(compared, _unknown(stored, new))


def _pairs(stored: pd.DataFrame, new: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Stored and new value of all cells that both have."""
    old, fresh = (
        one[one["metric"].isin(metrics)][[*KEYS, "value"]].rename(columns={"value": name})
        for one, name in ((stored, "stored"), (new, "new"))
    )
    return fresh.merge(old, on=list(KEYS), how="inner", validate="one_to_one")


def _judge(pairs: pd.DataFrame, limits: Mapping[str, float | None]) -> pd.DataFrame:
    """Those whose metric has a limit, each with whether it is kept; two undefined values agree."""
    kept = pairs.assign(tolerance=pairs["metric"].map(limits).astype(float))
    kept = kept[kept["tolerance"].notna()]
    difference = kept["new"] - kept["stored"]
    both_undefined = kept["new"].isna() & kept["stored"].isna()
    within = both_undefined | (difference.abs() <= kept["tolerance"] + np.finfo(float).eps)
    return kept.assign(difference=difference, within=within)[list(COLUMNS)]


def _unknown(stored: pd.DataFrame, new: pd.DataFrame) -> list[str]:
    """Cells that were run and are not stored, in words."""
    keys = [key for key in KEYS if key != "metric"]
    known = set(stored[keys].itertuples(index=False, name=None))
    asked = dict.fromkeys(new[keys].itertuples(index=False, name=None))
    return [cell_text(*one) for one in asked if one not in known]


def cell_text(strategy: str, contamination: str, poisoned: int, seed: float) -> str:
    """A cell in words; without a seed the mean of several."""
    last = "mean over seeds" if pd.isna(seed) else f"seed {seed:.0f}"
    return f"{strategy} · {contamination} · {poisoned} poisoned · {last}"
