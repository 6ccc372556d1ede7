"""Certificates in whole runs: each group trains as a run of its clients alone, and the report, the
screen, the page and the leaderboard have what the majority's answers are certified against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedrobust.errors import ConfigError
from fedrobust.reporting import text
from fedrobust.reporting.charts.certificate import certificate_figures
from fedrobust.reporting.report.certificate import CertificateSection
from fedrobust.runtime.engines.inline_grid import InlineGrid
from fedrobust.runtime.server import certification
from fedrobust.runtime.server.loop import build_server_context, predict_global, run_rounds
from fedrobust.studies.comparison.cell_results import long_table
from fedrobust.studies.comparison.summary import plain_cells, sections
from tests.helpers import federations, reports
from tests.helpers.comparisons import findings
from tests.helpers.federations import MEAN, Memory

WORDS = (*MEAN, "num_clients=3", "rounds=1", "certificate.groups=3")


@pytest.fixture
def grid() -> Iterator[InlineGrid]:
    with InlineGrid("fedrobust.clients.app:app", 3, {"simulation": True}, threads=1) as opened:
        yield opened


def test_each_group_trains_as_a_run_of_its_clients(grid: InlineGrid) -> None:
    experiment = federations.build_experiment(*WORDS, "server.batchnorm=local")
    found = certification.certify(experiment, 1, grid, Memory())
    assert grid.states == {}  # no client keeps what it remembered of a group
    assert found is not None
    assert (found.variant, found.groups, found.group_size) == ("disjoint", 3, None)
    predicted = []
    for client in range(3):
        server = build_server_context(
            federations.build_experiment(*WORDS[:-1], f"participants=[{client}]")
        )
        state = run_rounds(server, grid, Memory()).state
        predicted.append(predict_global(server, state, server.inputs.test).argmax(dim=1))
    votes = torch.nn.functional.one_hot(torch.stack(predicted), 7).sum(dim=0)
    right = votes.argmax(dim=1) == experiment.dataset.labels[experiment.test_rows()]
    assert found.accuracy == pytest.approx(100 * float(right.double().mean()))
    agreed = votes.amax(dim=1) == 3  # three equal votes stand against one malicious client
    assert found.certified_accuracy[1] <= 100 * float((right & agreed).double().mean()) + 1e-9


def test_equal_drawn_groups_train_once(grid: InlineGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[int, ...]] = []

    def predict(experiment: object, *_: object) -> torch.Tensor:
        trained.append(experiment.settings.participants)  # type: ignore[attr-defined]
        return torch.zeros(len(labels), dtype=torch.int64)

    monkeypatch.setattr(certification, "_predict", predict)
    one = federations.build_experiment(
        *WORDS[:-1], "certificate.groups=40", "certificate.group_size=1"
    )
    labels = one.dataset.labels[one.test_rows()]
    found = certification.certify(one, 1, grid, Memory())
    assert sorted(trained) == [(0,), (1,), (2,)]
    assert found is not None
    # all agree: (0.001 / images)^(1/40) > 0.7, but one of three clients touches a third of all
    # groups: p_y - p_z < 2/3 is not enough against one, enough against none
    assert found.certified_accuracy == (pytest.approx(found.accuracy), 0.0)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["certificate.groups=4"], "certificate.groups=4: more than num_clients=3"),
        (["certificate.groups=0"], "certificate.groups=0: must be at least 1"),
        (["certificate.group_size=4"], "certificate.group_size=4: more than num_clients=3"),
        (["strategy=krum", "strategy.f=0"], "krum needs at least 3 clients a round, and a group"),
        (["clients_per_round=2"], "certificate.groups=3: cannot be combined with clients_per_"),
        (
            ["privacy=local_dp", "server.batchnorm=local"],
            "certificate.groups=3: cannot be combined with privacy=local_dp",
        ),
    ],
)
def test_what_cannot_be_certified_is_refused(words: list[str], line: str) -> None:
    keys = {word.partition("=")[0] for word in words}
    with pytest.raises(ConfigError, match=line):
        federations.build_experiment(
            *(word for word in WORDS if word.partition("=")[0] not in keys), *words
        )


SECTION = CertificateSection(
    variant="disjoint", groups=5, images=200, accuracy=81.5, certified_accuracy=(81.5, 60.0, 0.0)
)


def test_screen_and_page_show_certified_accuracy() -> None:
    made = reports.typed(reports.full_report()).model_copy(update={"certificate": SECTION})
    assert text.certificate_lines(SECTION) == [
        "ensemble of 5 disjoint groups: accuracy 81.5; certified accuracy against so many "
        "malicious clients: 81.5 (0), 60.0 (1), 0.0 (2)"
    ]
    assert text.attack_lines(made)[-1:] == text.certificate_lines(SECTION)
    [figure] = certificate_figures(made)
    assert "2 malicious clients" in str(figure.chart)
    assert certificate_figures(reports.typed(reports.report())) == ()


def test_the_leaderboard_shows_it_for_the_rules_that_have_it(tmp_path: Path) -> None:
    found = findings(tmp_path, seeds=(0, 1), counts=(0, 3), draws=50)
    certified = tuple(
        replace(one, report=one.report.model_copy(update={"certificate": SECTION}))
        if one.cell.strategy == "good"
        else one
        for one in found.results
    )
    found = replace(found, results=certified)
    [table] = [one for one in sections(found) if one.name == "certified"]
    heads, rows = plain_cells(table.rows)
    assert heads[2:] == ["Ensemble's accuracy (%)", "m = 0", "m = 1", "m = 2"]
    assert [row[:2] for row in rows] == [["good † ‡", "0"], ["good † ‡", "3"]]
    assert rows[0][4] == "60.0 [60.0, 60.0]"
    frame = long_table(found.results, {})
    assert set(frame[frame.metric == "certificate.m1"].value) == {60.0}
