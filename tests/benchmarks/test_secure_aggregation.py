"""The benchmark of secure aggregation runs and measures every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.secure_aggregation import main

STEPS = ("keys", "shares", "clip", "encode", "mask", "unmask")
SERVER = ("add a reply", "take masks off", "decode")


def test_it_measures_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["--hospitals", "4", "--parameters", "1000", "--json", str(tmp_path / "out.json")])
        == 0
    )
    assert "4 hospitals, 1000 parameters" in capsys.readouterr().out
    measured = json.loads((tmp_path / "out.json").read_text())["measured"]
    assert set(measured) == {
        *(f"hospital: {one}" for one in STEPS),
        *(f"server: {one}" for one in SERVER),
        "MiB",
    }
    assert all(seconds > 0 for name, seconds in measured.items() if name != "MiB")


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--help"], 0), (["--hospitals", "2"], 2), (["--json", "nowhere/out.json"], 2)],
)
def test_the_command_line(words: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(words)
    assert leaving.value.code == code
    assert main(["--quick"]) == 0
