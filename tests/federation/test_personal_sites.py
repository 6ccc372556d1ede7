"""Sites with models of their own: each tells of that one what its own configuration allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrobust.reporting.report import read_report
from tests.helpers.sites import WORDS, serve, sites


@pytest.mark.slow
def test_sites_report_on_their_own_models_where_they_allow_it(tmp_path: Path) -> None:
    own = {
        "a": {"min-cell": 1, "share-personal": True},
        "b": {"min-cell": 1},
        "c": {"share-predictions": True},
    }
    words = " ".join([*WORDS, "rounds=1", "client=ditto"])
    serve(sites(tmp_path, own=own), folder=str(tmp_path / "run"), overrides=words)
    report = read_report(tmp_path / "run")
    counted, silent, predicted = report.clients
    assert silent.personal is None
    for one in (counted, predicted):
        assert one.personal is not None
        # sites evaluate one run: no own model of the clean twin
        assert one.personal.twin_clean is None
        assert one.personal.clean.n == one.clean.n > 0
    assert counted.personal.clean.auroc is None
    drops = report.site_drops
    assert drops is not None
    assert drops.global_model is None
    assert drops.personal_models is not None
    assert set(drops.personal_models.present) == {"corruption", "clients"}
    assert drops.personal_models.clients.by_kind["clean"].num_clients == 2
