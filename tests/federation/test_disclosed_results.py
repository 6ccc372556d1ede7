"""A run over real sites that tell counts, predictions or nothing of their test images: report, page
and screen say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrobust.reporting.report import read_report
from fedrobust.reporting.report.sections import DisclosureSection
from fedrobust.reporting.report.values import METRIC_FIELDS
from fedrobust.reporting.text import disclosure_notes
from tests.helpers.sites import serve, sites


@pytest.mark.slow
def test_a_run_ends_with_what_each_site_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {
        "a": {"min-cell": 1},
        "b": {"share-counts": False},
        "c": {"share-predictions": True},
    }
    plain = {name: {"share-predictions": True} for name in "abc"}
    for name, configured in (("told", own), ("plain", plain)):
        serve(sites(tmp_path, own=configured), folder=str(tmp_path / name))
    said = " ".join(capsys.readouterr().out.split())
    report, exact = read_report(tmp_path / "told"), read_report(tmp_path / "plain")
    assert report.evaluations == exact.evaluations
    counted, nothing, predicted = report.clients
    assert predicted == exact.clients[2]
    assert counted.disclosure == DisclosureSection(form="counts", min_cell=1)
    # exact counts give the metrics of predictions, but those that need probabilities
    assert counted.clean.model_dump(exclude={"auroc", "ece"}) == pytest.approx(
        exact.clients[0].clean.model_dump(exclude={"auroc", "ece"}), abs=1e-4
    )
    assert (counted.clean.auroc, counted.clean.ece) == (None, None)
    assert nothing.disclosure == DisclosureSection(
        form="nothing", reason="the site's own configuration keeps its counts"
    )
    assert nothing.clean.n == 0
    assert all(getattr(nothing.clean, name) is None for name in METRIC_FIELDS)
    assert report.drops.clients.by_kind["clean"].num_clients == 2
    page = (tmp_path / "told" / "report.html").read_text(encoding="utf-8")
    notes = disclosure_notes(report.clients)
    assert [note.split(":")[0] for note in notes] == ["0 a", "1 b"]
    for note in notes:
        assert note in said
        assert note.replace("'", "&#39;") in page
    assert disclosure_notes(exact.clients) == []
