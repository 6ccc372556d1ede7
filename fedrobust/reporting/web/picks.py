"""Selections that show one rule, attack or the like, and hide the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from fedrobust.reporting.web.markup import element


def picks(choices: Mapping[str, tuple[str, Sequence[str]]]) -> Markup:
    """A selection for each kind of which there are several; hidden unless the script runs.

    Args:
        choices: by kind, as in `tables.Cell.pick` (the kind is a name of the program): title, and
            the names by number.

    Returns:
        The selections in one box; empty where there is nothing to choose.
    """
    boxes = [
        element("label", {}, title, _select(kind, names))
        for kind, (title, names) in choices.items()
        if len(names) > 1
    ]
    return element("div", {"class": "picks", "hidden": True}, *boxes) if boxes else Markup("")


def _select(kind: str, names: Sequence[str]) -> Markup:
    options = [element("option", {"value": number}, name) for number, name in enumerate(names)]
    return element("select", {"data-pick": kind}, element("option", {"value": ""}, "all"), *options)
