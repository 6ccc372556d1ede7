"""A small published table: two rules under one attack, two seeds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fedrobust.studies.reproduction.store import write_packed
from fedrobust.studies.reproduction.tables import StoredTable, read_table

NAME = "small"
DEFINITION = """
about: two rules under a sign flip
command:
  - experiment=smoke
  - "strategies=[fedavg,{gentle krum: 'strategy=krum strategy.f=1'}]"
  - contaminations=[sign_flip]
  - poisoned=[0,1]
  - seeds=[0,1]
tolerances:
  drop.poisoning.combined: {cell: 2, mean: 1}
  clean.f1: {mean: 0.5}
quick: {seeds: [1], strategies: [gentle krum]}
metrics: [influence.*]
"""


def values(drop: float = 10.0, f1: float = 50.0) -> pd.DataFrame:
    """All cells, whose drop and F1 are these, one more in seed 1."""
    rows = [
        {
            "strategy": rule,
            "contamination": "sign_flip" if poisoned else "none",
            "poisoned": poisoned,
            "seed": seed,
            "metric": metric,
            "value": value + seed if poisoned else value,
            "unit": "%",
        }
        for rule in ("fedavg", "gentle krum")
        for poisoned in (0, 1)
        for seed in (0, 1)
        for metric, value in (("drop.poisoning.combined", drop), ("clean.f1", f1))
    ]
    return pd.DataFrame(rows)


def store(folder: Path, definition: str = DEFINITION) -> StoredTable:
    """The table in a folder of tables."""
    place = folder / NAME
    place.mkdir()
    (place / "table.yaml").write_text(definition, encoding="utf-8")
    write_packed(place / "results.csv.gz", values())
    return read_table(NAME, folder)
