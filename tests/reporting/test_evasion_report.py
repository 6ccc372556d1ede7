"""The section `evasion` in report.json, on the screen and on the page."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedrobust.evaluation.settings import THREAT_MODELS
from fedrobust.reporting import text as wording
from fedrobust.reporting.console import summary_table
from fedrobust.reporting.html import write_html
from fedrobust.reporting.manifest import write_manifest
from fedrobust.reporting.report import read_report, write_report
from tests.helpers import evasion_reports, reports


def report(**section: Any) -> dict[str, Any]:
    return {**reports.report(), "evasion": {**evasion_reports.section(), **section}}


def on_screen(made: dict[str, Any]) -> str:
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(summary_table(reports.typed(made)))
    return console.export_text()


def fused() -> dict[str, Any]:
    """A report with the clients' models fused into one."""
    section = evasion_reports.section((4.0,))
    part = {key: section[key] for key in ("clean", "purifier_drop", "attacks")}
    return report(**section, fusion={"members": 3, **part})


def test_fused_client_models_are_reported_and_shown(tmp_path: Path) -> None:
    good = fused()
    write_report(tmp_path, reports.typed(good))
    found = reports.plain(read_report(tmp_path))
    assert reports.rounded(found) == reports.rounded(good)
    text = " ".join(on_screen(good).split())
    assert "pgd on the 3 client models fused (MEFF), 240 test images" in text
    for key in ("members", "clean", "purifier_drop", "attacks"):
        bad = fused()
        del bad["evasion"]["fusion"][key]
        with pytest.raises(ValueError, match=key):
            reports.typed(bad)


def test_sites_are_named_in_the_table_of_the_clients_own_models(tmp_path: Path) -> None:
    made = report()
    for client in made["clients"]:
        client["sites"] = [f"site {client['id']}", "graz"]
    ids = [str(one["id"]) for one in made["evasion"]["clients"]]
    typed = reports.typed(made)
    assert typed.evasion is not None
    rows = wording.member_rows(typed.evasion, typed.clients)
    assert [row[0] for row in rows] == [f"{one} site {one} + graz" for one in ids]
    table = on_screen(made).partition("each client's own model")[2]
    assert "site 0" in " ".join(table.split())
    bare = reports.typed(report())
    assert [row[0] for row in wording.member_rows(typed.evasion, bare.clients)] == ids


@pytest.mark.parametrize("eps", [(4.0,), (1.0, 2.5, 4.0, 8.0), (None,)])
def test_a_good_section_passes_and_comes_back(
    tmp_path: Path, eps: tuple[float | None, ...]
) -> None:
    good = report(**evasion_reports.section(eps))
    write_report(tmp_path, reports.typed(good))
    found = reports.plain(read_report(tmp_path))
    assert reports.rounded(found) == reports.rounded(good)


PLACES = [
    *(
        ("attack",),
        ("purifier",),
        ("images",),
        ("clean",),
        ("clean", "none"),
        ("purifier_drop",),
        ("attacks",),
        ("clients",),
    ),
    *(
        ("attacks", 0, key)
        for key in (
            "threat_model",
            "eps_255",
            "purifier",
            "linf",
            "l2",
            "metrics",
            "balanced_ci95",
            "drop",
            "recovered",
        )
    ),
    *(("clients", 0, key) for key in ("id", "kind", "clean", "attacks")),
    *(
        ("clients", 0, "attacks", 0, key)
        for key in ("threat_model", "eps_255", "purifier", "metrics", "combined_drop")
    ),
]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_missing_entry_is_refused(place: tuple[str | int, ...]) -> None:
    bad = copy.deepcopy(report())
    *parents, last = place
    inner: Any = bad["evasion"]
    for step in parents:
        inner = inner[step]
    del inner[last]
    with pytest.raises(ValueError, match=str(last)):
        reports.typed(bad)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threat_model", "psychic"),
        ("eps_255", 0),
        ("eps_255", 256),
        ("linf", 1.5),
        ("l2", -1.0),
        ("balanced_ci95", [1.0]),
        ("extra", 1),
    ],
)
def test_wrong_values_are_refused(key: str, value: Any) -> None:
    bad = copy.deepcopy(report())
    bad["evasion"]["attacks"][0][key] = value
    with pytest.raises(ValueError, match="evasion"):
        reports.typed(bad)


def test_clients_behind_a_purifier_are_part_of_the_contract() -> None:
    good = reports.report()
    good["clients"][0]["purified"] = {
        "clean": reports.evaluation(40.0),
        "contaminated": reports.evaluation(30.0),
    }
    reports.typed(good)
    del good["clients"][0]["purified"]["clean"]
    with pytest.raises(ValueError, match="clean"):
        reports.typed(good)


def test_the_screen_says_it_within_80_columns() -> None:
    text = on_screen(report())
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for part in (
        "Evasion: pgd on the global model, 240 test images",
        "differentiated",
        "bpda eot: the attacker knows the purifier, averages over its noise",
        "9.9 to 14.2",  # 12 - 2.1, 12 + 2.2
        "58.2",  # 100 (33 - 12) / (48.1 - 12)
        "Evasion: balanced accuracy of each",
        "eps 8",
    ):
        assert part in text, part
    assert "Evasion" not in on_screen(reports.report())


def test_edge_cases_of_the_screen() -> None:
    section = evasion_reports.section((None,), clients=60)
    section["purifier_drop"] = None
    section["attacks"][1]["recovered"] = {"percent": None, "ci95": None}
    section["attacks"][0]["balanced_ci95"] = None
    section["clean"].pop("mdda")
    text = on_screen({**reports.report(), "evasion": section})
    assert "None" not in text
    assert "and 20 more in report.json" in text
    assert max(map(len, text.splitlines())) <= 80
    many = on_screen(
        {
            **reports.report(),
            "evasion": evasion_reports.section(
                tuple(float(one) for one in range(1, 12)), clients=0
            ),
        }
    )
    assert "own model" not in many
    wide = on_screen(
        {
            **reports.report(),
            "evasion": evasion_reports.section(tuple(float(one) for one in range(1, 12))),
        }
    )
    assert max(map(len, wide.splitlines())) <= 80


def test_every_threat_model_has_its_words() -> None:
    assert tuple(wording.THREAT_MEANINGS) == THREAT_MODELS


def test_the_page_has_the_section(tmp_path: Path) -> None:
    manifest = write_manifest(
        tmp_path,
        {"rounds": 5},
        seed=0,
        facts={"data": {"name": "skin"}},
        device="cpu",
        command_line=["simulate.py"],
    )
    page = write_html(
        tmp_path, reports.typed(report()), manifest, {"run": reports.rounds()}
    ).read_text(encoding="utf-8")
    for part in (
        "<h3>Evasion attacks</h3>",
        "pgd on the global model, 240 test images",
        "58.2",
        "differentiated",
        '<th scope="col" class="n">eps 4</th>',
    ):
        assert part in page, part


def test_rows_without_an_attack_or_a_purifier_come_first_whatever_the_order_of_the_file() -> None:
    made = report()
    made["evasion"]["clean"] = dict(reversed(made["evasion"]["clean"].items()))
    made["evasion"]["attacks"].reverse()
    section = reports.typed(made).evasion
    assert section is not None
    rows = [row[:3] for row in wording.evasion_rows(section)]
    assert rows[:2] == [("none", "-", "none"), ("none", "-", "mdda")]
    assert rows[2:5] == [
        ("oblivious", "1", "none"),
        ("oblivious", "1", "mdda"),
        ("oblivious", "2", "none"),
    ]
    assert [row[0] for row in rows[10:]] == ["bpda eot"] * 4 + ["differentiated"] * 4
