"""The table on the screen at the end of an ablation: what ablation.md says first."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from fedrobust.reporting.console.tables import new_table
from fedrobust.studies.ablation.markdown import FORMULA, value
from fedrobust.studies.ablation.summary import Entry


def ablation_table(entries: Entry) -> RenderableType:
    """A row a model: accuracy on clean and noisy test images, and the Combined drop between them.

    Args:
        entries: the content of ablation.json.
    """
    first = next(iter(entries["models"]))
    heads = ["Model", "Accuracy", "under noise", "Combined drop", f"minus {first}'s"]
    table = new_table("Ablation: clean and noisy test images, values in %", heads)
    for model, drop in entries["noise"].items():
        levels = (entries["levels"][name][model]["accuracy"] for name in ("clean", "corrupted"))
        table.add_row(
            model, *map(value, levels), value(drop["combined"]), value(drop["minus_first"])
        )
    return Group(table, Text(FORMULA, style="dim"))
