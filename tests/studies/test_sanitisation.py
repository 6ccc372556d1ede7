"""Sanitising in a whole run, and the pooled command on its output folder."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from fedrobust import sanitise, simulate
from fedrobust.defences.sanitisation.detection import Detection
from fedrobust.evaluation.statistics import wilson_interval
from fedrobust.reporting.report import read_report
from fedrobust.studies import sanitisation

WORDS = (
    *(
        "experiment=smoke",
        "poisoned=1",
        "contamination=label_flip",
        "contamination.rate=0.3",
        "partition=iid",
    ),
    *(
        "model.options.channels=[16,32,48,64]",
        "engine.threads=1",
        "rounds=6",
        "client.epochs=2",
        "client.optimizer.lr=1e-2",
    ),
    *(
        "client.loss=balanced_softmax",
        "strategy=fedavg",
        "evaluation.twin=false",
        "evaluation.bootstrap_samples=0",
    ),
    *("sanitiser=sphere_etf", "sanitiser.quantile=0.3", "sanitiser.warmup=4"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["simulate", *WORDS, f"hydra.run.dir={out}"])
        patch.setenv("HYDRA_FULL_ERROR", "1")
        simulate.main()
    return out


@pytest.mark.slow
def test_a_run_finds_flipped_images_better_than_chance_and_says_so(folder: Path) -> None:
    found = read_report(folder).sanitising
    assert found.recall > 1.5 * 100 * found.dropped / found.images
    assert found.precision > 1.5 * 100 * found.altered / found.images
    table = pd.read_csv(folder / "clients.csv")
    assert (table[table["round"] <= 4]["dropped"] == 0).all()
    late = table[table["round"] > 4]
    assert late["dropped"].sum() == found.dropped > 0
    assert late["found"].sum() == found.found
    assert (late[late["kind"] == "clean"]["altered"] == 0).all()
    assert (folder / "report.html").read_text().count("Altered images left out: recall") == 1
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert {"dropped", "altered", "found"} <= set(lines[-1]["clients"][0]["metrics"])


@pytest.mark.slow
def test_the_pooled_command_prints_every_defence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # as if of two seeds
    words = [str(folder), "--quantile", "0.1", str(folder), "quiet=true"]
    monkeypatch.setattr(sys, "argv", ["sanitise", *words])
    monkeypatch.setenv("COLUMNS", "120")
    sanitise.main()
    shown = capsys.readouterr().out
    assert re.search(r"\d+ training images in 2 runs, \d+ altered \(\d+\.\d %\)", shown)
    rows = [
        line.split()[:2]
        for line in shown.splitlines()
        if line.split()[:1] in (["sphere"], ["slab"])
    ]
    assert rows == [
        ["sphere", "centroid"],
        ["slab", "centroid"],
        ["sphere", "etf"],
        ["slab", "etf"],
    ]
    pool = sanitisation.read_pool(folder)
    verdicts = [
        sanitisation.evaluate_defence([pool], one)
        for one in sanitisation.defences(0.1, 0.0, etf=True)
    ]
    assert all(row.aurocs[0] is not None and row.aurocs[0] > 60 for row in verdicts)
    assert len({row.detections[0].altered for row in verdicts}) == 1


def test_shares_of_one_run_and_of_several() -> None:
    # 8 of 10 dropped images were altered, of 16 in all; the other run finds 4 of 10 and of 8
    one, other = Detection(100, 10, 16, 8), Detection(100, 10, 8, 4)
    precision, recall = sanitisation.detection_shares([one])
    assert (precision.value, recall.value) == (80, 50)
    assert (precision.low, precision.high) == wilson_interval(8, 10)
    precision, recall = sanitisation.detection_shares([one, other])
    assert (precision.value, recall.value) == (60, 50)
    assert precision.low is not None
    assert precision.high is not None
    assert precision.low < 40  # the interval is wider than the two runs lie apart
    assert precision.high > 80
    # a run in which nothing was altered has no recall
    assert sanitisation.detection_shares([one, Detection(50, 5, 0, 0)])[1].value == 50


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["/nowhere"],
            r"/nowhere: holds no readable manifest\.json; give the output folder of a finished run",
        ),
        (["{tmp}"], r"holds no model\.safetensors; give the output folder of a finished run"),
        (["{tmp}", "--quantile", "1"], r"--quantile=1\.0: must be at most 0\.99"),
        (["{tmp}", "--threshold", "-1"], r"--threshold=-1\.0: must be at least 0"),
    ],
)
def test_wrong_input_ends_with_one_line_and_code_2(
    words: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "manifest.json").write_text('{"config": {}}')
    monkeypatch.setattr(sys, "argv", ["sanitise", *(word.format(tmp=tmp_path) for word in words)])
    with pytest.raises(SystemExit) as leaving:
        sanitise.main()
    assert leaving.value.code == 2
    errors = capsys.readouterr().err
    assert re.search(line, errors), errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["sanitiser=sphere", "sanitiser.warmup=1"],
            r"sanitiser\.warmup=1: nothing would be left out in rounds=1",
        ),
        (
            [
                "sanitiser=slab_etf",
                "sanitiser.warmup=0",
                "model.head=linear",
                "client.loss=cross_entropy",
            ],
            r"sanitiser\.anchors=etf: needs",
        ),
        (
            ["sanitiser=sphere", "sanitiser.quantile=1.5"],
            r"sanitiser\.quantile=1\.5: must be at most 0\.99",
        ),
        (
            ["sanitiser=cube"],
            (
                r"sanitiser=cube: no such choice; sanitiser can be none, slab, slab_etf, "
                r"sphere, sphere_etf"
            ),
        ),
    ],
)
def test_wrong_settings_of_a_run_end_with_one_line(
    words: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "simulate",
            "experiment=smoke",
            "strategy=fedavg",
            *words,
            f"hydra.run.dir={tmp_path / 'out'}",
        ],
    )
    with pytest.raises(SystemExit) as leaving:
        simulate.main()
    errors = capsys.readouterr().err
    assert (leaving.value.code, errors.count("\n")) == (2, 1)
    assert re.search(line, errors), errors
