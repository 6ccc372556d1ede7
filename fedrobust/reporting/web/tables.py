"""Tables that the script can sort and filter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedrobust.reporting.web.markup import element

FILTERED = 12  # rows from which on a table gets a filter
MOST_ROWS = 1000  # the rest is counted below the table


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell shows. sort: by what it is sorted; None: by its text, NaN: always
    last. look: a class. pick: the
    kind and number of what a selection (`web.picks`) shows or hides; that of a row's first cell
    holds for the row."""

    words: object
    sort: float | None = None
    look: str = ""
    pick: tuple[str, int] | None = None


def table(
    columns: Sequence[Cell | str],
    rows: Iterable[Sequence[Cell | str]],
    *,
    words: int = 1,
    sortable: bool = True,
) -> Markup:
    """A table that scrolls by itself where it is too wide.

    Args:
        columns: heads with their units.
        rows: cells; the first of each names its row.
        words: columns of text from the left, all others hold numbers.
        sortable: whether a click on a head sorts.
    """
    whole = [[_whole(cell) for cell in row] for row in rows]
    lines = whole[:MOST_ROWS]
    head = [_head(_whole(cell), "" if place < words else "n") for place, cell in enumerate(columns)]
    body = [
        element(
            "tr", _pick(row[:1]), *(_cell(cell, place, words) for place, cell in enumerate(row))
        )
        for row in lines
    ]
    look = "sortable" if sortable else ""
    if sortable and len(lines) >= FILTERED:
        look += " filter"
    inner = element(
        "table",
        {"class": look or None},
        element("thead", {}, element("tr", {}, *head)),
        element("tbody", {}, *body),
    )
    rest = len(whole) - len(lines)
    note = element("p", {"class": "soft"}, f"and {rest} more rows, which the files hold")
    return element("div", {"class": "scroll"}, inner, *([note] if rest else []))


def _pick(cells: Sequence[Cell]) -> dict[str, object]:
    """The attribute by which a selection finds what the first of these cells stands for."""
    return {f"data-{kind}": number for cell in cells if cell.pick for kind, number in [cell.pick]}


def _head(cell: Cell, look: str) -> Markup:
    classes = " ".join(part for part in (look, cell.look) if part)
    return element("th", {"scope": "col", "class": classes or None, **_pick([cell])}, cell.words)


def _whole(cell: Cell | str) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)


def _cell(cell: Cell, place: int, words: int) -> Markup:
    look = " ".join(part for part in ("" if place < words else "n", cell.look) if part)
    kept = None if cell.sort is None else f"{cell.sort:.10g}"
    attributes: dict[str, object] = {"class": look or None, "data-sort": kept}
    if place == 0:
        return element("th", {"scope": "row", **attributes}, cell.words)
    return element("td", {**attributes, **_pick([cell])}, cell.words)
