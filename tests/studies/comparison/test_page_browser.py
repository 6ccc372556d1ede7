"""leaderboard.html in a browser: no error, no request, no overflow, dark and light, and what the
script adds."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrobust.studies.comparison import leaderboard, page
from tests.helpers import browser
from tests.helpers.comparisons import findings, renamed, without

pytestmark = pytest.mark.slow
EVIL = '</script><img src=x onerror="document.title=1"><script>alert(1)</script>'
PROBE = """(doc, win) => {
  const table = doc.querySelector("table.sortable");
  const seen = (one) => one.getClientRects().length > 0;
  const rows = () => [...table.tBodies[0].rows].filter(seen);
  const rules = () => rows().map((row) => row.cells[0].textContent);
  const before = rules();
  const box = doc.querySelector(".picks");
  const shown = win.getComputedStyle(box).display;
  const choose = (kind, value) => {
    const choice = box.querySelector(`select[data-pick="${kind}"]`);
    choice.value = value;
    choice.dispatchEvent(new win.Event("change"));
  };
  choose("rule", "0");
  const ruled = rules();
  choose("rule", "");
  choose("attack", "1");
  const heads = [...table.tHead.rows[0].cells].filter(seen).map((one) => one.textContent);
  choose("attack", "");
  choose("share", "1");
  const titles = [...doc.querySelectorAll("section h2")].filter(seen).map((one) => one.textContent);
  choose("share", "");
  table.tHead.rows[0].cells[3].querySelector("button").click();
  const sorted = rules();
  return {
    "before": before, "shown": shown, "ruled": ruled, "heads": heads, "titles": titles,
    "sorted": sorted, "all": rules().length, "title": doc.title, "images": doc.images.length,
    "small": Math.min(...[...doc.querySelectorAll(".chart text")].filter(seen).map((one) => {
      const svg = one.ownerSVGElement, size = parseFloat(win.getComputedStyle(one).fontSize);
      return size * svg.clientWidth / svg.viewBox.baseVal.width;
    })),
  };
}"""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a failed cell, and names that would break out of the page."""
    folder = tmp_path_factory.mktemp("board")
    made = findings(folder / "cells", seeds=(0, 1), draws=200)
    made = renamed(made, {"same": EVIL, "noise": "an attack with a very long name " + EVIL})
    made = without(made, EVIL, strategy="good", seed=1, poisoned=3)
    return page.write_page(made, leaderboard.rankings_of(made), ["results.csv"], folder)


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_the_page_and_its_script_works(
    board: Path, tmp_path: Path, dark: bool
) -> None:
    found = browser.probe_page(board, tmp_path, PROBE, dark=dark)
    assert set(found) == {"390", "1280"}
    for one in found.values():
        assert one["overflow"] <= 0
        assert one["requests"] == []
        assert one["background"] == ("rgb(20, 24, 31)" if dark else "rgb(255, 255, 255)")
        probe = one["probe"]
        assert sorted(probe["before"]) == sorted(["good † ‡", EVIL, "bad"])
        assert probe["shown"] == "flex"
        assert probe["ruled"] == ["good † ‡"]
        assert not any("flip" in head for head in probe["heads"])
        assert any("very long" in head for head in probe["heads"])
        assert probe["titles"] == ["1 of 10 clients (10 %) poisoned"]
        assert probe["sorted"][0] == "bad"  # the largest mean
        assert probe["all"] == 3
        assert probe["images"] == 0
        assert probe["title"] != "1"
        assert probe["small"] >= 9.5  # pixels


def test_without_script_and_on_paper_it_is_complete(board: Path, tmp_path: Path) -> None:
    paper = tmp_path / "page.pdf"
    browser.start(tmp_path, f"--print-to-pdf={paper}", board.as_uri())
    assert paper.read_bytes().startswith(b"%PDF")
    text = board.read_text()
    assert '<div class="picks" hidden>' in text  # selections come with the script
    body = text.partition("<body>")[2]
    assert 'class="unpicked"' not in body
    assert "style=" not in body  # the policy would refuse it
