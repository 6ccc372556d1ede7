"""The ablation as a person runs it: one command, wrong input, interruption and going on, a training
that fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedrobust.ablation import main
from fedrobust.reporting.report import read_report
from fedrobust.studies.comparison import run as conduct
from tests.helpers.processes import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[3]
SMALL = (
    "experiment=smoke",
    "model.dimension=8",
    "model.options.channels=[8,8,16,16]",
    "seeds=[0]",
    "draws=200",
    "severities=[3]",
    "evaluation.bootstrap_samples=0",
)
MODELS = "models=[{ETF+Rect+DML: 'client=mutual_learning client.early_stopping=1'}]"


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The command line in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["ablation", *words])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    try:
        main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def test_a_dry_run_says_what_would_be_trained_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["models=[{a: 'client=sgd'}]", "poisonings=[label_flip]", "scenarios=[hair]"]
    assert run(monkeypatch, *SMALL, *words, f"out={out}", "dry_run=true") == 0
    shown = capsys.readouterr().out
    assert "cells: 2 (1 model, 1 poisoning, poisoned 0, 1, 1 seed); 0 finished" in shown
    assert "scenarios: each model of clean trainings is then tested under 1 scenario" in shown
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["poisonings=[sign_flip]", "scenarios=[]"],
            r"poisonings: sign_flip does nothing to training data",
        ),
        (
            ["poisonings=[]", "scenarios=[sign_flip]"],
            r"scenarios: sign_flip does nothing to images",
        ),
        (
            ["poisonings=[]", "scenarios=[magic]"],
            r"contamination@corruption=magic|magic: no such choice",
        ),
        (["poisonings=[]", "scenarios=[hair]", "severities=[9]"], r"corruption\.severity=9"),
        (
            [
                "poisonings=[]",
                "scenarios=[]",
                "models=[{a: 'client.size=1 client=mutual_learning'}]",
            ],
            r"a · none · .*client\.size=1: must be at least 2",
        ),
        (
            ["poisonings=[]", "scenarios=[]", "models=[{a: 'model.head=linear'}]"],
            r"client\.loss=dot_regression: needs model\.head=etf",
        ),
        (
            [
                "poisonings=[]",
                "scenarios=[]",
                "data=ham10000",
                "data.root=/nowhere",
            ],
            r"/nowhere",
        ),
        (["num_clients=4"], r"num_clients=4: belongs to a federation"),
    ],
)
def test_wrong_input_ends_with_one_line_and_code_2(
    words: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *SMALL, *words, f"out={tmp_path / 'out'}") == 2
    errors = capsys.readouterr().err
    assert re.search(line, errors), errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_stopped_in_the_middle_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cohort, and a model that runs away; the first process is interrupted while it trains. It
    takes about 25 seconds: both start processes for their cells."""
    out = tmp_path / "out"
    runaway = MODELS.replace("]", ",{runaway: 'client.optimizer.lr=1e30'}]")
    words = [
        *SMALL,
        runaway,
        "poisonings=[label_error]",
        "scenarios=[hair]",
        f"out={out}",
        "parallel=1",  # a worker takes seconds to start
    ]
    command = [sys.executable, "-m", "fedrobust.ablation", *words]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    wait_until(lambda: list(out.glob("cells/*/run.log")), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, errors
    assert re.fullmatch(
        rf"interrupted: \d of 4 cells are finished; the same command resumes in {out}\n", errors
    ), errors
    assert not (out / "ablation.md").exists()

    monkeypatch.chdir(ROOT)
    assert run(monkeypatch, *words) == 1
    out_text, errors = capsys.readouterr()
    assert re.match(r"error: 2 cells failed, the first: runaway · none", errors)
    assert "Ablation: clean and noisy test images" in out_text
    page, entries = (
        (out / "ablation.md").read_text(),
        json.loads((out / "ablation.json").read_text()),
    )
    assert "## Failed" in page
    assert set(entries["poster"]) == {"ETF+Rect+DML"}
    assert entries["training"]["ETF+Rect+DML"]["epochs"] == [1.0]
    assert entries["noise"]["runaway"]["combined"]["value"] is None
    [folder] = (out / "cells").glob("ETF+Rect+DML-none-*")
    report = read_report(folder)
    assert entries["noise"]["ETF+Rect+DML"]["combined"]["value"] == pytest.approx(
        report.drops.corruption.combined, abs=1e-3
    )
    assert entries["levels"]["clean"]["ETF+Rect+DML"]["f1"]["value"] == pytest.approx(
        report.evaluations["clean"].f1
    )
    [poisoned] = (out / "cells").glob("ETF+Rect+DML-label_error-*")
    drop = read_report(poisoned).drops.poisoning.combined
    assert entries["poisonings"]["label_error"]["models"]["ETF+Rect+DML"]["combined"][
        "value"
    ] == pytest.approx(drop, abs=1e-3)
    assert {path.name for path in out.iterdir()} == {
        "cells",
        "results.csv",
        "ablation.md",
        "ablation.json",
        "drops.png",
        "run.log",
    }

    # Once more without the one that fails and with another scenario: nothing is trained again, only
    # the new scenario is evaluated.
    monkeypatch.setattr(
        conduct,
        "run_cells",
        lambda cells, *_, **__: {} if not cells else pytest.fail("trained a finished cell"),
    )
    words[words.index(runaway)] = MODELS
    assert run(monkeypatch, *words[:-4], "poisonings=[]", "scenarios=[hair,jpeg]", *words[-2:]) == 0
    assert set(json.loads((out / "ablation.json").read_text())["scenarios"]) == {"hair", "jpeg"}
    assert len(list(folder.glob("scenarios/*/predictions.npz"))) == 2
