"""Examples of docs/extending.md: its files, dropped into a copy of the packages, work from the
command line."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedrobust.reporting.report import read_report
from tests.helpers.federations import SMALL_RUN

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"`((?:strategies|fedrobust|configs)/[\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", re.DOTALL
)


@pytest.mark.slow
def test_the_documented_strategy_and_contamination_work(tmp_path: Path) -> None:
    for package in ("fedrobust", "strategies", "clients", "configs"):
        shutil.copytree(ROOT / package, tmp_path / package)
    files = BLOCK.findall((ROOT / "docs" / "extending.md").read_text())
    assert len(files) == 6
    for name, text in files:
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text)
    words = [
        "experiment=smoke",
        *SMALL_RUN,
        "strategy=clipped_mean",
        "preaggregation=averaged",
        "contamination=darker",
    ]
    command = [
        sys.executable,
        "-m",
        "fedrobust.simulate",
        *words,
        "evaluation.twin=false",
        "hydra.run.dir=out",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_report(tmp_path / "out").strategy == "averaged+clipped_mean"
    sources = [name for name, _ in files if name.endswith(".py")]
    lint = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--config",
        str(ROOT / "pyproject.toml"),
        *sources,
    ]
    checked = subprocess.run(
        lint, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stdout
