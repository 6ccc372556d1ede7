"""The ablation's one picture: the combined drop of every model against what is done to test images
or training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from fedrobust.evaluation.statistics import Estimate
from fedrobust.studies.ablation.summary import Entry
from fedrobust.studies.comparison.plots import Line, plot_lines

START = (0.0, Estimate(0.0))  # nothing is done, nothing is lost


def draw_figure(entries: Entry, path: Path) -> bool:
    """Write the picture of what stands in ablation.json; False where nothing is graded, and so
    there is nothing to draw."""
    panels, xlabels = lines(entries)
    if not panels:
        return False
    plot_lines(panels, list(entries["models"]), xlabels, "combined drop, %", path)
    return True


def lines(entries: Entry) -> tuple[dict[str, Mapping[str, Line]], list[str]]:
    """The panels {title: {model: line}} and their x labels: the noise, every family of poisonings,
    every graded scenario."""
    panels: dict[str, Mapping[str, Line]] = {}
    xlabels = []
    if entries["grades"]:
        steps = {float(name.rpartition("_s")[2]): one for name, one in entries["grades"].items()}
        panels["test: noise"] = _lines(entries, steps)
        xlabels.append("severity")
    for names in families(entries["poisonings"]):
        one, title = entries["poisonings"][names[0]], f"training: {shared_words(names)}"
        steps = {
            entries["poisonings"][name]["strength"]: _combined(
                entries["poisonings"][name]["models"]
            )
            for name in names
        }
        panels[title if title not in panels else names[0]] = _lines(entries, steps)
        xlabels.append(one["unit"])
    for family, one in entries["scenarios"].items():
        graded = {
            float(step["severity"]): step["models"]
            for step in one["steps"]
            if step["severity"] is not None
        }
        if graded:
            panels[f"test: {family}"] = _lines(entries, graded)
            xlabels.append("severity")
    return panels, xlabels


def families(poisonings: Mapping[str, Any]) -> list[list[str]]:
    """Names of poisonings that differ in their strength only, weakest first; those of no known
    strength are left out."""
    found: dict[str, list[str]] = {}
    for name, one in poisonings.items():
        if one["strength"] is not None:
            found.setdefault(one["family"], []).append(name)
    return [
        sorted(names, key=lambda name: poisonings[name]["strength"]) for names in found.values()
    ]


def shared_words(names: Sequence[str]) -> str:
    """The words with which all these names begin; the first name where there are none."""
    columns = takewhile(
        lambda column: len(set(column)) == 1, zip(*(name.split() for name in names), strict=False)
    )
    return " ".join(column[0] for column in columns) or names[0]


def _combined(models: Mapping[str, Any]) -> dict[str, Any]:
    return {model: {"combined": one["combined"]} for model, one in models.items()}


def _lines(entries: Entry, steps: Mapping[float, Mapping[str, Any]]) -> dict[str, Line]:
    return {
        model: [
            START,
            *((x, _estimate(one[model]["combined"])) for x, one in sorted(steps.items())),
        ]
        for model in entries["models"]
    }


def _estimate(one: Mapping[str, Any]) -> Estimate:
    return Estimate(one["value"], one["low"], one["high"])
