"""Charts, tables and markup of pages: what they hold, and that nothing from outside breaks out."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest

from fedrobust.reporting.web.bars import Bar, BarRow, Stack, bar_chart, stacked_chart
from fedrobust.reporting.web.figures import Figure, Key
from fedrobust.reporting.web.lines import Line, Point, line_chart, spread_out
from fedrobust.reporting.web.markup import element, harmless, shorten
from fedrobust.reporting.web.matrices import heat_map
from fedrobust.reporting.web.picks import picks
from fedrobust.reporting.web.ranks import Ranked, rank_chart
from fedrobust.reporting.web.scales import Axis, axis, percent_axis, tick_text
from fedrobust.reporting.web.tables import MOST_ROWS, Cell, table

EVIL = '"><script>alert(1)</script>'


def attributes(markup: str, tag: str, name: str) -> list[float]:
    return [float(one) for one in re.findall(rf'<{tag}[^>]* {name}="([^"]*)"', markup)]


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ((0.0, 100.0), (0, 100)),
        ((-5.7, 60.7), (-20, 80)),
        ((0.01, 0.28), (0, 0.3)),
        ((3.0, 3.0), (3, 4)),
        ((None, float("nan"), 2.0, 9.0), (2, 10)),
        ((), (0, 1)),
    ],
)
def test_axes_end_at_round_numbers_that_hold_all_values(
    values: tuple[float | None, ...], ends: tuple[float, float]
) -> None:
    found = axis(values)
    assert (found.low, found.high) == pytest.approx(ends)
    assert found.ticks[0][0] == found.low
    assert 2 <= len(found.ticks) <= 8


def test_whole_numbers_have_whole_ticks() -> None:
    assert [words for _, words in axis((0, 3), whole=True).ticks] == ["0", "1", "2", "3"]
    assert tick_text(-2.5) == "\u22122.5"


def test_bars_begin_at_zero_and_carry_interval_value_and_hover() -> None:
    scale = Axis(-50, 100)
    rows = [
        BarRow("up", (Bar("a", "s0", 50.0, (40.0, 70.0), "hover up"),)),
        BarRow("down", (Bar("a", "s0", -25.0, None, "hover down"),)),
        BarRow("none", (Bar("a", "s0", None, None, "hover none"),)),
    ]
    found = str(bar_chart("title", rows, scale))
    left, width = (attributes(found, "rect", name) for name in ("x", "width"))
    assert left[1] + width[1] == pytest.approx(left[0], abs=0.2)  # both meet at 0
    assert width[0] == pytest.approx(2 * width[1], abs=0.2)
    assert found.count('class="whisker"') == 3
    for words in ("hover up", "hover down", "hover none", ">undefined<", ">\u221225<"):
        assert words in found


def test_a_missing_value_leaves_a_gap_in_a_line() -> None:
    points = tuple(Point(x, None if x == 2 else 10.0 * x, f"x{x}") for x in range(5))
    found = str(line_chart("t", [Line("a", "s0", points)], Axis(0, 4), percent_axis("%")))
    [path] = re.findall(r' d="([^"]*)"', found)
    assert (path.count("M"), path.count("L")) == (2, 2)
    assert "<title>x2</title>" not in found


def test_lines_end_at_their_names_which_do_not_overlap() -> None:
    lines = [
        Line("a", "clean", (Point(0, 5.0), Point(1, 10.0 + k / 10)), name=f"site {k}")
        for k in range(10)
    ]
    found = str(line_chart("t", lines, Axis(0, 1), percent_axis("%")))
    heights = sorted(
        float(one) for one in re.findall(r'<text x="[^"]*" y="([^"]*)" class="name"', found)
    )
    assert len(heights) == 10
    assert min(b - a for a, b in pairwise(heights)) >= 12
    many = [Line("a", "clean", (Point(0, 5.0),), name=f"site {k}") for k in range(40)]
    assert 'class="name"' not in line_chart("t", many, Axis(0, 1), percent_axis("%"))


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    points = tuple(Point(x, 1.0, f"x{x}") for x in range(5000))
    found = str(line_chart("t", [Line("a", "s0", points)], Axis(0, 4999), percent_axis("%")))
    assert "<title>x4999</title>" in found
    assert 50 <= found.count("<title>") <= 100
    assert len(found) < 60_000


def test_points_without_a_hover_text_have_no_mark() -> None:
    lines = [Line("a", "clean", (Point(0, 5.0), Point(1, 6.0)))]
    found = str(line_chart("t", lines, Axis(0, 1), percent_axis("%")))
    assert "<circle" not in found
    assert found.count("<path") == 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("melanoma", "melanoma"),
        ("Universitaetsklinikum Graz 12", "Univer… 12"),
        ("abcdefghijk", "abcdef…ijk"),
    ],
)
def test_names_are_shortened_in_their_middle(name: str, shown: str) -> None:
    assert shorten(name, 10) == shown
    assert len(shown) <= 10


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], []),
        ([10.0, 50.0], [10.0, 50.0]),
        ([10.0, 11.0, 50.0], [10.0, 20.0, 50.0]),
        ([95.0, 96.0, 97.0], [80.0, 90.0, 100.0]),
    ],
)
def test_names_that_would_overlap_are_spread(places: list[float], expected: list[float]) -> None:
    assert spread_out(places, 10.0, 100.0) == pytest.approx(expected)


def test_shades_and_signs_of_a_heat_map() -> None:
    names = ["a", "b"]
    hovers = [["one", "two"], ["three", "four"]]
    found = str(heat_map("t", [[50.0, -100.0], [None, 0.0]], (names, names), hovers, 100.0))
    assert attributes(found, "rect", "fill-opacity") == [0.5, 1.0, 0.0]
    assert found.count("cell below") == 1
    assert ">50<" in found
    assert ">\u2212100<" in found
    wide = [[1.0] * 13] * 13
    letters, words = [str(k) for k in range(13)], [["h"] * 13] * 13
    many = heat_map("t", wide, (letters, letters), words, 1.0)
    assert "number" not in many
    assert "rotate" not in many
    assert ">12 12<" in many


def test_average_ranks_stand_in_their_order_with_bars_over_groups() -> None:
    ranked = [Ranked("c", 3.0), Ranked("a", 1.0), Ranked("b", 2.0)]
    found = str(rank_chart("t", ranked, [[1, 2]], "rank"))
    middles = attributes(found, "circle", "cx")
    clique = re.search(r'x1="([^"]*)"[^>]*class="clique"', found)
    assert clique is not None
    assert len(middles) == 2
    assert float(clique[1]) == min(middles)
    ends = re.findall(r'd="M([0-9.]+) [0-9.]+V([0-9.]+)H([0-9.]+)"', found)
    starts = [float(start) for start, _, _ in ends]
    assert starts == sorted(starts[:2]) + starts[2:]
    assert [float(end) < 200 for _, _, end in ends] == [True, True, False]  # best half on the left
    for words in ("a 1.0", "b 2.0", "c 3.0"):
        assert f">{words}</text>" in found


def test_selections_name_what_is_to_choose_between() -> None:
    found = str(picks({"rule": ("Rule", ["a", "b"]), "attack": ("Attack", ["c"])}))
    assert found.count("<select") == 1
    assert 'data-pick="rule"' in found
    assert ">all</option>" in found
    assert str(picks({"attack": ("Attack", ["c"])})) == ""
    shown = str(table(["r", Cell("h", pick=("attack", 3))], [[Cell("a", pick=("rule", 2)), "1"]]))
    assert '<tr data-rule="2">' in shown
    assert shown.count('data-attack="3"') == shown.count('data-rule="2"') == 1


def test_nothing_from_outside_breaks_out() -> None:
    point = Point(0, 1.0, EVIL)
    parts: list[Any] = [
        bar_chart(EVIL, [BarRow(EVIL, (Bar("k", "s0", 1.0, None, EVIL),))], Axis(0, 1)),
        stacked_chart(EVIL, [Stack(EVIL, (("k", "s0", 1.0, EVIL),))], EVIL),
        line_chart(
            EVIL, [Line("k", "s0", (point,), name=EVIL)], Axis(0, 1, EVIL), Axis(0, 1, EVIL)
        ),
        heat_map(EVIL, [[1.0]], ([EVIL], [EVIL]), [[EVIL]], 1.0),
        rank_chart(EVIL, [Ranked(EVIL, 1.0, EVIL), Ranked(EVIL, 2.0, EVIL)], [[0, 1]], EVIL),
        picks({"rule": (EVIL, [EVIL, "b"])}),
        table([EVIL, EVIL], [[EVIL, Cell(EVIL, 1.0)]]),
        Figure(EVIL, element("svg"), EVIL, (Key("k", "s0", EVIL),)).__html__(),
    ]
    for one in parts:
        assert "<script" not in str(one)
        assert '""' not in str(one).replace(' value=""', "")  # of the choice "all"


def test_signs_that_cannot_be_printed_are_written_as_escapes() -> None:
    assert str(harmless("a\u202eb\x00<")) == "a\\u202eb\\x00&lt;"


def test_a_table_sorts_by_numbers_and_filters_where_it_is_long() -> None:
    rows = [[f"row {k}", Cell("gain 2.0", -2.0), Cell("-")] for k in range(12)]
    found = str(table(["name", "drop", "other"], rows))
    assert 'class="sortable filter"' in found
    assert 'data-sort="-2"' in found
    assert "filter" not in table(["name", "drop", "other"], rows[:3])
    assert "sortable" not in table(["name", "drop", "other"], rows[:3], sortable=False)


def test_a_very_long_table_ends_with_the_number_of_rows_left_out() -> None:
    found = str(table(["name"], [[str(k)] for k in range(MOST_ROWS + 7)]))
    assert found.count("<tr>") == MOST_ROWS + 1
    assert "and 7 more rows" in found
