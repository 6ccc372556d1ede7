"""The comparison as a person runs it: one command, wrong input, interruption and going on, a cell
that fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from fedrobust import compare
from fedrobust.reporting.report import read_report
from fedrobust.studies.comparison import run as conduct
from tests.helpers.processes import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[1]
SMALL = (
    "experiment=smoke",
    "contaminations=[label_flip]",
    "poisoned=[1]",
    "seeds=[0]",
    "draws=200",
    "evaluation.bootstrap_samples=0",
)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The command line in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["compare", *words])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    try:
        compare.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["strategies=[fedavg,krum]"],
            r"krum · label_flip · 1 poisoned · seed 0: strategy\.f=3: strategy=krum then needs",
        ),
        (
            ["strategies=[fedavg]", "poisoned=[1,4]"],
            r"fedavg · label_flip · 4 poisoned · seed 0: poisoned=4: more than num_clients=3",
        ),
        (["strategies=[magic]"], r"strategy=magic: no such choice"),
        (
            ["strategies=[fedavg]", "evaluation.twin=false"],
            r"evaluation\.twin=false: drops are measured against the clean twin",
        ),
        (["strategies=[fedavg]", "contamination.rate=2"], r"contamination\.rate=2"),
        (
            ["strategies=[fedavg]", "data=ham10000", "data.root=/nowhere"],
            r"/nowhere",
        ),
        (["strategies=[fedavg]", "engine.threads=0"], r"engine\.threads=0"),
        (
            ["strategies=[fedavg,{other: 'strategy=fedavg data.num_images=700'}]"],
            r"other · .*test images are not those of the other cells",
        ),
        (["strategies=[fedavg]", "model.name=nothing"], r"model\.name=nothing"),
        (["seed=3"], r"seed=3"),
    ],
)
def test_wrong_input_ends_with_one_line_and_code_2(
    words: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert run(monkeypatch, *SMALL, *words, f"out={out}") == 2
    errors = capsys.readouterr().err
    assert re.search(line, errors), errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not out.exists()


def processes(out: Path) -> list[str]:
    """The processes of cells in this folder."""
    found = subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [
        line for line in found if "fedrobust.studies.comparison.worker" in line and str(out) in line
    ]


@pytest.mark.slow
def test_killed_in_the_middle_resumed_and_with_a_failing_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rule that does well and one whose clients' weights run away. The first process is
    interrupted in the middle of its cells. It takes about 20 seconds: both start processes for
    their cells, the first two of them, the second one."""
    out, runaway = tmp_path / "out", "{runaway: 'strategy=fedavg client.optimizer.lr=1e30'}"
    words = [*SMALL, f"strategies=[{runaway},fedavg]", "rounds=8", f"out={out}", "parallel=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedrobust.compare", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    # in the middle of a run
    wait_until(lambda: list(out.glob("cells/fedavg-*/checkpoints/run-*")), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert re.fullmatch(
        rf"interrupted: \d of 2 cells are finished; the same command resumes in {out}\n", errors
    ), errors
    assert not processes(out)
    assert not (out / "leaderboard.md").exists()

    monkeypatch.chdir(ROOT)
    assert run(monkeypatch, *words[:-1], "parallel=1") == 1
    printed = capsys.readouterr()
    assert re.fullmatch(
        r"error: 1 cell failed, the first: runaway · .*: round 1: 3 clients failed.*\n",
        printed.err,
    ), printed.err
    folders = {path.name.split("-")[0]: path for path in (out / "cells").iterdir()}
    assert set(folders) == {"runaway", "fedavg"}
    # it resumed from its last checkpoint
    assert json.loads((folders["fedavg"] / "manifest.json").read_text())["resumed"]
    frame = pd.read_csv(out / "results.csv")
    assert frame[frame.metric == "failed"].strategy.tolist() == ["runaway"]
    drops = frame[frame.metric == "drop.poisoning.combined"].set_index("strategy").value
    assert drops["fedavg"] == pytest.approx(read_report(folders["fedavg"]).drops.poisoning.combined)
    page = (out / "leaderboard.md").read_text()
    assert "| runaway · label_flip · 1 poisoned · seed 0 | round 1: 3 clients failed" in page
    pictures = {"heatmap.png", "drop_by_share.png", "influence.png", "drop_by_severity.png"}
    assert {path.name for path in out.iterdir()} == {
        "cells",
        "results.csv",
        "differences.csv",
        "ranking.csv",
        "summary.csv",
        "leaderboard.html",
        "leaderboard.md",
        "run.log",
        *pictures,
    }

    # Once more without the failing rule: nothing is run, the tables are made again.
    monkeypatch.setattr(
        conduct,
        "run_cells",
        lambda cells, *_, **__: {} if not cells else pytest.fail("ran a finished cell"),
    )
    assert (
        run(monkeypatch, *SMALL, "strategies=[fedavg]", "rounds=8", f"out={out}", "parallel=1") == 0
    )
    assert "1 cell, 1 is finished" in capsys.readouterr().out
    assert "## Failed" not in (out / "leaderboard.md").read_text()


@pytest.mark.slow
def test_the_uncontaminated_cell_is_everybody_s_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "cache"))
    words = [*SMALL, "strategies=[fedavg]", "poisoned=[0,1]"]
    assert run(monkeypatch, *words, f"out={tmp_path / 'one'}", "parallel=2") == 0
    cells = {path.name.split("-")[1]: path for path in (tmp_path / "one" / "cells").iterdir()}
    assert set(cells) == {"none", "label_flip"}
    assert "taken from the cache" in (cells["label_flip"] / "run.log").read_text()
    clean, poisoned = read_report(cells["none"]), read_report(cells["label_flip"])
    assert clean.evaluations["clean"] == poisoned.evaluations["twin_clean"]
    assert clean.drops.poisoning.combined == 0
