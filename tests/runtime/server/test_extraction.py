"""Stages while features are computed: what, how many, how far, and not too often."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrobust.experiment.features import Extraction
from fedrobust.runtime.server import extraction
from fedrobust.runtime.server.extraction import extraction_stages
from fedrobust.runtime.server.loop import run_rounds
from tests.helpers import federations
from tests.runtime.server.test_checkpointing import inline


def stages(watch: federations.Memory) -> list[str]:
    return [f"{event[1]}: {event[2]}" for event in watch.events if event[0] == "stage"]


def texts(steps: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said of 7,084 images. steps: time and number of images that are done."""
    watch, now = federations.Memory(), [0.0]
    monkeypatch.setattr(extraction.time, "monotonic", lambda: now[0])
    tell = extraction_stages(watch, "run")
    for now[0], done in steps:
        tell(Extraction("ham10000", "tf_efficientnet_lite0", "images", done, 7084))
    return stages(watch)


WHOLE = "run: features of 7,084 images (data: ham10000) through tf_efficientnet_lite0"


def test_a_long_extraction_is_shown_every_few_seconds_and_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = [(100, 0), (101, 64), (105, 1000), (106, 1064), (111, 3542), (112, 7084)]
    assert texts([(at, done) for at, done in steps], monkeypatch) == [
        WHOLE,
        f"{WHOLE}: 1,000 done (14 %)",
        f"{WHOLE}: 3,542 done (50 %)",
        f"{WHOLE}: 7,084 done (100 %)",
    ]


def test_a_short_one_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert texts([(100, 0), (101, 64), (102, 7084)], monkeypatch) == [WHOLE]


def test_a_run_says_it_before_its_first_round_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path))
    words = ("model.freeze=backbone", "data.size=16", "rounds=1", "poisoned=0")
    said = []
    for _ in range(2):
        server, watch = federations.build_server(*words), federations.Memory()
        with inline() as grid:
            run_rounds(server, grid, watch)
        said.append([text for text in stages(watch) if text.startswith("run: features")])
        assert stages(watch)[: len(said[-1])] == said[-1]
    assert [len(one) for one in said] == [2, 0]
    assert "augmented views of images (data: synthetic) through" in said[0][1]
