"""The page of a run in a browser: no error, no request, no overflow, dark and light, and what the
script adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedrobust.reporting.html import write_html
from fedrobust.reporting.manifest import write_manifest
from tests.helpers import browser, evasion_reports, reports
from tests.helpers.samples import sample_block

pytestmark = pytest.mark.slow
EVIL = '</script><img src=x onerror="document.title=1"><script>alert(1)</script>'
PROBE = """(doc, win) => {
  const tables = [...doc.querySelectorAll("table.sortable")];
  const heads = tables.find((one) => one.tHead.textContent.includes("Hospital"));
  const column = () => [...heads.tBodies[0].rows].map((row) => row.cells[0].textContent);
  const before = column();
  heads.tHead.rows[0].cells[4].querySelector("button").click();
  const sorted = column(), order = heads.tHead.rows[0].cells[4].getAttribute("aria-sort");
  const entry = doc.querySelector("#rounds ~ .figures .legend li");
  const wanted = `.series[data-series="${entry.dataset.series}"]`;
  const series = entry.closest("figure").querySelector(wanted);
  entry.click();
  const hidden = win.getComputedStyle(series).display;
  entry.click();
  const mark = doc.querySelector(".bars .series .mark .area");
  const move = { bubbles: true, clientX: 50, clientY: 50 };
  mark.dispatchEvent(new win.PointerEvent("pointermove", move));
  const tip = doc.getElementById("tip");
  const box = heads.parentNode.previousElementSibling;
  box.value = "poisoned";
  box.dispatchEvent(new win.Event("input"));
  return {
    "before": before, "sorted": sorted, "order": order, "hidden": hidden,
    "shown": win.getComputedStyle(series).display, "tip": tip.hidden ? "" : tip.textContent,
    "kept": [...heads.tBodies[0].rows].filter((row) => !row.hidden).length,
    "title": doc.title, "scripts": doc.scripts.length, "images": doc.images.length,
    "charts": doc.querySelectorAll("svg.chart").length,
    "small": Math.min(...[...doc.querySelectorAll(".chart text")].map((one) => {
      const svg = one.ownerSVGElement, size = parseFloat(win.getComputedStyle(one).fontSize);
      return size * svg.clientWidth / svg.viewBox.baseVal.width;
    })),
  };
}"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with everything on it, and names that would break out of it."""
    report = reports.full_report(14, 3, 1, classes=("mel", EVIL, "a class with a very long name"))
    report["strategy"] = EVIL
    report["evasion"] = evasion_reports.section()
    report["clients"][4] |= {"site": EVIL, "sites": [EVIL]}
    manifest = write_manifest(
        tmp_path,
        {"note": EVIL},
        seed=0,
        facts={"data": {"name": "skin"}},
        device="cpu",
        command_line=["simulate.py"],
    )
    rounds = {"run": reports.rounds(14), "clean twin": reports.rounds(14)}
    block = sample_block(changed=True)
    return write_html(tmp_path, reports.typed(report), manifest, rounds, samples=[block])


def checked(page: Path, folder: Path, *, dark: bool) -> dict[str, Any]:
    found = browser.probe_page(page, folder, PROBE, dark=dark)
    assert set(found) == {"390", "1280"}
    for one in found.values():
        assert one["overflow"] <= 0
        assert [name for name in one["requests"] if not name.startswith("data:")] == []
    return found


def test_a_browser_shows_the_page_and_its_script_works(page: Path, tmp_path: Path) -> None:
    light = checked(page, tmp_path, dark=False)
    for one in light.values():
        probe = one["probe"]
        assert probe["before"] == [
            *(f"{k}" for k in range(4)),
            f"4 {EVIL}",
            *map(str, range(5, 14)),
        ]
        assert probe["order"] == "descending"
        assert sorted(probe["sorted"]) == sorted(probe["before"])
        assert probe["sorted"] != probe["before"]
        assert (probe["hidden"], probe["shown"]) == ("none", "inline")
        assert probe["tip"].startswith("poisoning: ")
        assert probe["kept"] == 3
        assert probe["scripts"] == 1
        assert probe["images"] == 6  # none beside the samples
        assert probe["charts"] >= 12
        assert probe["small"] >= 9.5  # pixels
        assert probe["title"].startswith(EVIL)  # as text
    dark = checked(page, tmp_path, dark=True)
    shades = [{one["background"] for one in found.values()} for found in (light, dark)]
    assert shades == [{"rgb(255, 255, 255)"}, {"rgb(20, 24, 31)"}]


def test_the_page_prints(page: Path, tmp_path: Path) -> None:
    paper = tmp_path / "page.pdf"
    browser.start(tmp_path, f"--print-to-pdf={paper}", page.as_uri())
    assert paper.read_bytes().startswith(b"%PDF")
    assert paper.stat().st_size > 20_000
