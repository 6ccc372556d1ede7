"""The ensemble command: client models of a federation, models trained centrally, wrong input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from fedrobust import meff
from tests.helpers.federations import SMALL_RUN

WORDS = (
    "experiment=smoke",
    *SMALL_RUN,
    "engine.threads=1",
    "strategy=fedavg",
    "evaluation.evasion_evaluation.adversarial_images=20",
    "evaluation.evasion_evaluation.eps_255=[2]",
)


def shown(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Rows of the table: model, images, three numbers."""
    return [
        re.split(r"\s{2,}", line.strip())
        for line in capsys.readouterr().out.splitlines()
        if re.search(r"(clean|255)\s+[\d-]", line)
    ]


@pytest.mark.slow
def test_client_models_are_fused_for_every_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "meff.json"
    meff.main(
        [
            *WORDS,
            "evasion=fgsm",
            "evaluation.bootstrap_samples=20",
            "--seeds",
            "0,1",
            "--json",
            str(out),
        ]
    )
    document = json.loads(out.read_text())
    assert (document["schema"], document["seeds"], document["attack"], document["images"]) == (
        1,
        [0, 1],
        "fgsm",
        20,
    )
    rows = document["results"]
    assert [[row["model"], row["images"]] for row in rows] == [
        [name, images]
        for name in ("global model", "fusion", "fusion, trained top")
        for images in ("clean", "fgsm 2/255")
    ]
    assert all(
        row[metric]["low"] <= row[metric]["high"] for row in rows for metric in ("accuracy", "f1")
    )
    assert [row["gain"] is None for row in rows] == [True] * 2 + [False] * 4
    assert capsys.readouterr().out.count("Gain, points") == 2  # after each seed


@pytest.mark.slow
def test_members_are_trained_centrally(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    members = [
        "--member",
        "client=sgd",
        "--member",
        "client=prox model.options.channels=[8,8,16,32]",
    ]
    # settings on both sides of the options
    meff.main([*WORDS, *members, "evaluation.bootstrap_samples=0", "--seeds", "0"])
    rows = shown(capsys)
    assert [row[:2] for row in rows] == [
        [name, "clean"] for name in ("member 0", "member 1", "fusion", "fusion, trained top")
    ]
    assert all(0 <= float(value) <= 100 for row in rows for value in row[2:5])


@pytest.mark.parametrize("json_file", [False, True])
def test_a_quiet_one_shows_the_last_table_or_where_it_is(
    json_file: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fuse(
        words: list[str], members: list[str], seeds: list[int], console: Console
    ) -> tuple[dict[str, Any], Table]:
        assert words == ["rounds=1"]
        console.print("progress")
        return {}, Table("Scores")

    monkeypatch.setattr("fedrobust.studies.meff.seeds.fuse_with_seeds", fuse)
    place = tmp_path / "meff.json"
    options = ["--json", str(place)] if json_file else []
    meff.main(["rounds=1", "quiet=true", *options])
    shown = capsys.readouterr().out
    assert "progress" not in shown
    assert (shown == f"results: {place}\n") if json_file else ("Scores" in shown)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["evasion=none"],
            r"evasion=none: the client models are kept only where they are attacked",
        ),
        (
            ["--member", "model.dimension=8", "--member", "model.dimension=7"],
            r"--member: the members of an ensemble must have the same classes",
        ),
        (["rounds=0"], r"rounds=0"),
        (["--member", "client=magic"], r"client=magic: no such choice"),
        (["--json", "nowhere/meff.json"], r"--json=nowhere/meff.json: its folder does not exist"),
    ],
)
def test_wrong_input_ends_with_one_line_and_code_2(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        meff.main([*WORDS, *words])
    errors = capsys.readouterr().err
    assert leaving.value.code == 2
    assert re.search(line, errors), errors
    assert errors.count("\n") == 1
