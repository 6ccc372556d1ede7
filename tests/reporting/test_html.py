from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fedrobust.reporting import text as wording
from fedrobust.reporting.html import write_html
from fedrobust.reporting.manifest import write_manifest
from fedrobust.reporting.results import left_out_files
from fedrobust.types import Failure
from tests.helpers import evasion_reports, reports
from tests.helpers.samples import sample_block

EVIL = '</pre><script>alert("x")</script>'


class Reader(HTMLParser):
    """Collects tags, addresses and text; complains about tags that do not match."""

    VOID = ("meta", "img", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "action", "data")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def write(
    folder: Path,
    report: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    twin: bool = True,
    uses: dict[str, int] | None = None,
    *,
    classes: Sequence[str] = ("mel",),
) -> Path:
    manifest = write_manifest(
        folder,
        config or {"rounds": 5},
        seed=0,
        facts={"data": {"name": "skin", "digest": "ab", "classes": list(classes)}},
        device="cpu",
        command_line=["simulate.py"],
    )
    rounds = reports.rounds()
    failure = Failure(3, f"ValueError: {EVIL}", f"Traceback {EVIL}")
    rounds[1] = replace(rounds[1], failures=(failure,))
    by_run = {"run": rounds, "clean twin": rounds if twin else []}
    made = reports.typed(report or reports.report())
    return write_html(folder, made, manifest, by_run, uses=uses)


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def test_the_page_shows_the_numbers_and_needs_no_network(tmp_path: Path) -> None:
    reader = read(write(tmp_path, reports.report(), uses={"root": 84, "proxy": 300}))
    text = " ".join(reader.words)
    for part in (
        "etf_dml · 10 hospitals (3 poisoned, 1 noisy) · 5 rounds · seed 0",
        "root (84 images)",
        "gain 5.0",
        "14.3 to 20.8",
        "48.1 %",
    ):
        assert part in text
    assert [one for one in reader.addresses if not one.startswith("#")] == ["manifest.json"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//\w+\.|@import|url\(", re.sub(r"base64,[^\"]*", "", page))


def test_the_policy_allows_its_own_style_and_script_alone(tmp_path: Path) -> None:
    page = write(tmp_path).read_text(encoding="utf-8")
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        [inner] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r" (style|on\w+)=\"", page)  # the policy would refuse these


def test_files_that_lie_beside_the_page_are_linked(tmp_path: Path) -> None:
    for name in ("report.json", "clients.csv"):
        (tmp_path / name).touch()
    reader = read(write(tmp_path))
    linked = [one for one in reader.addresses if not one.startswith("#")]
    assert linked == ["report.json", "manifest.json", "clients.csv"]


def test_the_page_of_a_whole_report_has_every_chart(tmp_path: Path) -> None:
    report = reports.full_report() | {"evasion": evasion_reports.section()}
    page = write(tmp_path, report)
    text = page.read_text(encoding="utf-8")
    for title in (
        "Combined drop (%) with its 95 % interval",
        "Drop (%) against severity",
        "Balanced accuracy (%) over the rounds",
        "Influence of each hospital",
        "Accuracy (%) at each hospital",
        "Images of each class at each hospital",
        "Recall (%) of each class",
        "minus the clean twin&#39;s (percentage points)",
        "Reliability:",
        "ROC:",
        "Balanced accuracy (%) under pgd",
    ):
        assert f"<h3>{title}" in text or title in text, title
    assert text.count("<svg") >= 14
    assert text.index("<svg") < text.index("<table")
    assert len(text) < 3_000_000
    for name in ("Worst hospital", "Worst class", "Poisoned clients found: recall"):
        assert name in text


@pytest.mark.slow
def test_the_page_of_a_large_federation_stays_below_three_megabytes(tmp_path: Path) -> None:
    report = reports.typed(reports.full_report(300, 100, 50, classes=[f"c{k}" for k in range(30)]))
    rounds = reports.rounds(300, 100, 50, total=100)
    manifest = {"started_utc": "today", "config": {}, "data": {}}
    page = write_html(tmp_path, report, manifest, {"run": rounds, "clean twin": rounds})
    assert page.stat().st_size < 3_000_000


def test_an_attack_without_a_bound_has_bars_by_purifier(tmp_path: Path) -> None:
    report = reports.full_report() | {"evasion": evasion_reports.section((None,), 0)}
    text = write(tmp_path, report).read_text(encoding="utf-8")
    start = text.index("<h3>Balanced accuracy (%) under pgd")
    figure = text[start : text.index("</figure>", start)]
    assert figure.count('class="mark"') >= 3 + 4
    for words in ("no purifier", "behind mdda", "no attack", "differentiated"):
        assert words in figure


def test_samples_show_a_difference_only_where_pixels_change(tmp_path: Path) -> None:
    for changed, pictures in ((True, 6), (False, 2)):
        manifest = {"started_utc": "today", "config": {}, "data": {}}
        blocks = [sample_block(changed)]
        report = reports.typed(reports.report())
        page = write_html(tmp_path, report, manifest, {"run": []}, samples=blocks)
        reader = read(page)
        shown = [one for one in reader.addresses if one.startswith("data:image/png;base64,")]
        assert len(shown) == pictures
        text = " ".join(reader.words)
        assert "nv → mel" in text
        assert ("No pixel changes" in text) != changed
        assert "poisoned client 3: <hair>" in text


def test_files_left_out_are_on_the_page_with_their_reasons(tmp_path: Path) -> None:
    files = {"a/1.dcm": "it is no JPEG", f"a/{EVIL}.png": "a link"}
    section = reports.plain_section(left_out_files(files))
    text = " ".join(read(write(tmp_path, reports.report() | {"left_out_files": section})).words)
    assert "files left out of the data set: 2, the first is a/1.dcm (it is no JPEG)" in text
    assert f"a/{EVIL}.png" in text


def test_both_thread_counts_say_whose_they_are(tmp_path: Path) -> None:
    report = reports.report() | {"engine": "inline, threads: 2", "device": "cpu (4 threads)"}
    text = " ".join(read(write(tmp_path, report)).words)
    assert (
        "Clients: engine inline, threads: 2. Server: device cpu (4 threads). "
        "Threads are those of torch, for each client and for the server."
    ) in text
    assert "torch_threads: threads of torch in the server's process" in text
    neither = reports.report() | {"engine": "flower, sites: 3", "device": "cuda (H200)"}
    assert "Threads are" not in " ".join(read(write(tmp_path, neither)).words)


def test_results_of_real_sites_are_marked_as_their_own_reports(tmp_path: Path) -> None:
    report = reports.report()
    assert "own reports" not in " ".join(read(write(tmp_path, report)).words)
    report["drops"]["clients"] |= {"self_reported": True, "median": 3.3}
    text = " ".join(read(write(tmp_path, report)).words)
    assert "of medians 3.3 %; the sites' own reports" in text
    assert "Real sites' results are their own reports and are not verified." in text


def test_headline_numbers_come_before_the_tables(tmp_path: Path) -> None:
    page = write(tmp_path).read_text(encoding="utf-8")
    assert page.index('class="value"') < page.index("<svg") < page.index("<table")
    first = page.index('class="title"')
    assert page[first:].startswith('class="title">Combined drop: poisoning<')


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    report = reports.full_report(classes=("mel", EVIL)) | {
        "strategy": EVIL,
        "engine": EVIL,
        "device": EVIL,
        "timing": {EVIL: 1.0},
    }
    report["clients"][0] |= {"site": EVIL, "sites": [EVIL]}
    config = {"data": {"class_names": [EVIL], EVIL: EVIL}}
    reader = read(write(tmp_path, report, config, uses={EVIL: 1}))
    assert reader.tags.count("script") == 1
    assert " ".join(reader.words).count("alert(") >= 20


def test_classes_are_listed_by_number_as_they_are(tmp_path: Path) -> None:
    names = ("$\\frac$", "<5mm", "[bold]x", "_n", "\u57fa\u5e95")
    words = " ".join(read(write(tmp_path, classes=names)).words)
    assert "Classes: 0 $\\frac$, 1 <5mm, 2 [bold]x, 3 _n, 4 \u57fa\u5e95" in words


@pytest.mark.parametrize("shape", [(1, 0, 0, False), (1, 1, 0, True), (100, 30, 10, True)])
def test_edge_cases(tmp_path: Path, shape: tuple[int, int, int, bool]) -> None:
    report = reports.report(*shape)
    for one in report["clients"]:
        one |= {
            "clean": reports.undefined(),
            "contaminated": reports.undefined(),
            "combined_drop": None,
        }
    report["drops"]["corruption"] = reports.skipped_drop() | {"combined": None}
    reader = read(write(tmp_path, report, twin=shape[3]))
    assert "None" not in " ".join(reader.words)
    assert ("Combined drop: poisoning" in reader.words) == shape[3]


def test_small_normal_values_are_called_unstable(tmp_path: Path) -> None:
    report = reports.report()
    report["drops"]["total"]["per_metric"]["f1"] = {"normal": 4.9, "attack": 1.0, "drop": 79.6}
    text = " ".join(read(write(tmp_path, report)).words)
    assert "total: unstable, a ratio to less than 5: F1" in text


def test_rounds_and_failures_of_both_runs_are_listed(tmp_path: Path) -> None:
    words = read(write(tmp_path)).words
    assert sum("round 1: client 3" in word for word in words) == 2
    assert words.count("clean twin") >= len(reports.rounds())


def test_only_what_the_run_shows_is_explained(tmp_path: Path) -> None:
    report = reports.report(4, 0, 0, False)
    names = [name for name, _ in wording.glossary(reports.typed(report))]
    assert "twin clean" not in names
    assert "purified clean" not in names
    assert "poisoning drop" not in names
    assert {"Attack success rate", "Poisoned clients found"}.isdisjoint(names)
    words = " ".join(read(write(tmp_path, report, twin=False)).words)
    assert wording.ATTACK_SUCCESS_MEANING not in words
    assert wording.DETECTION_MEANING not in words
    everything = dict(wording.glossary(reports.typed(reports.report())))
    assert {"twin clean", "poisoning drop", "Poisoned clients found"} <= set(everything)
