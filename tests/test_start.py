"""What a command imports before it is known what it has to do, and what a run never needs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers.federations import SMALL_RUN

ROOT = Path(__file__).parents[1]
COMPUTES = {"torch", "numpy", "scipy", "pandas", "matplotlib", "sklearn", "flwr", "ray", "timm"}
COMMANDS = (  # those of the grids: tests/studies/test_command_line.py
    ("meff", "--help"),
    ("sanitise", "--help"),
    ("federation", "--help"),
    ("federation", "run", "--help"),
    ("simulate", "--version"),
    ("simulate", "--help"),
    ("simulate", "strategy=etf_dml", "corruption=hair", "--help"),
    ("__main__", "--help"),
    ("__main__", "--version"),
    ("__main__", "meff", "--help"),
    ("__main__", "simulate", "--help"),
    ("__main__", "show", "--help"),
    ("__main__", "list", "--help"),
    ("__main__", "reproduce", "--help"),
    ("__main__", "list", "contamination"),
)
# the module as `python -m` runs it, and what it has imported when it ends
RUN = """
import runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as leaving:
    assert not leaving.code, leaving.code
print("imported:", *sys.modules)
"""


def imported(*words: str, **environment: str) -> set[str]:
    """The modules that a new process has imported at its end. words: a module and its words."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    assert last.startswith("imported: "), last
    return set(last.split()[1:])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_imports_nothing_that_computes(words: Sequence[str]) -> None:
    command, *rest = words
    found = imported(f"fedrobust.{command}", *rest)
    assert not COMPUTES & found
    assert not {"hydra", "omegaconf"} & found  # nothing is composed


@pytest.mark.slow
def test_a_small_run_imports_what_it_uses_alone(tmp_path: Path) -> None:
    words = ["experiment=smoke", *SMALL_RUN, "poisoned=0", "num_clients=2", "evaluation.twin=false"]
    found = imported(
        "fedrobust.simulate",
        *words,
        f"hydra.run.dir={tmp_path / 'run'}",
        FEDROBUST_CACHE=str(tmp_path / "cache"),
    )
    assert (tmp_path / "run" / "report.html").exists()
    assert "torch" in found
    assert not {"ray", "sklearn", "art", "pandas", "numba", "torchmetrics"} & found


@pytest.mark.slow
def test_a_worker_imports_what_a_client_uses_alone() -> None:
    found = imported("fedrobust.clients.app")
    assert "torch" in found
    assert not {"ray", "sklearn", "art", "pandas", "scipy", "torchmetrics"} & found
    assert not {"matplotlib", "numba", "jinja2"} & found
