"""The benchmark of secure aggregation runs and measures every step."""

from __future__ import annotations

import pytest

from benchmarks.secure_aggregation import main


def test_it_measures_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--hospitals", "4", "--parameters", "1000"]) == 0
    out = capsys.readouterr().out
    assert "4 hospitals, 1000 parameters" in out
    for name in ("keys", "shares", "clip", "encode", "mask", "add a reply", "unmask", "take masks off", "decode", "MiB"):
        assert out.count(f" {name} ") == 1
