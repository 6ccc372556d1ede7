"""One run after the other in one process: nothing of the first is left for the second."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from fedrobust.experiment import build
from fedrobust.studies.comparison import isolation
from fedrobust.studies.comparison.isolation import NewProcess
from fedrobust.utils.machine import memory, peak_memory
from tests.helpers import federations


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests' objects stay within reach of the collector, which takes long for them."""
    monkeypatch.setattr(isolation.gc, "collect", lambda: None)
    monkeypatch.setattr(isolation.gc, "freeze", lambda: None)


def observe() -> dict[str, object]:
    """What the next run in the process would find; random numbers are drawn."""
    return {
        "torch": torch.rand(3).tolist(),
        "numpy": np.random.rand(3).tolist(),
        "python": random.random(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "words": list(sys.argv),
    }


def disturb(folder: Path) -> None:
    """What a run must not do to the next one."""
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    os.environ["FEDROBUST_LEFT"] = "1"
    os.environ.pop("HOME", None)
    os.chdir(folder)
    sys.argv.append("word")


def test_the_second_run_finds_what_the_first_found(tmp_path: Path) -> None:
    new, found = NewProcess(), []
    for _ in range(3):
        with new.again():
            found.append(observe())
            disturb(tmp_path)
    with new.again():  # and what a run that fails has left
        pass
    assert found[0] == found[1] == found[2]
    assert len({str(one["torch"]) for one in found}) == 1


def test_a_failing_run_leaves_nothing_either(tmp_path: Path) -> None:
    new = NewProcess()
    with new.again():
        before = observe()
    with pytest.raises(ValueError, match="broken"), new.again():  # noqa: PT012
        disturb(tmp_path)
        raise ValueError("broken")
    with new.again():
        assert observe() == before


def test_warnings_are_shown_to_every_run() -> None:
    new, shown = NewProcess(), []
    for _ in range(2):
        with new.again():
            warnings.simplefilter("default")
            warnings.showwarning = lambda message, *_: shown.append(str(message))  # type: ignore[assignment]
            for _ in range(2):
                warnings.warn("look here", UserWarning, stacklevel=1)
    assert shown == ["look here"] * 2


def test_experiments_go_and_data_sets_stay() -> None:
    new = NewProcess()
    with new.again():
        one = federations.build_experiment()
        assert build.from_text(one.text) is one
    with new.again():
        other = build.from_text(one.text)
    assert other is not one
    assert other.dataset is one.dataset


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not tell")
def test_peak_memory_is_that_of_one_run() -> None:
    new = NewProcess()
    with new.again():
        torch.ones(1 << 26)  # 256 MB
        large = peak_memory()
    with new.again():
        small = peak_memory()
    assert large is not None
    assert small is not None
    assert large > small + 200e6
    assert 0 < (memory() or 0) <= small + 50e6


# a run that has imported a library whose objects, left at the end, would be reported as leaked
AT_THE_END = """
from fedrobust.studies.comparison.isolation import NewProcess
with NewProcess().again():
    import triton._C.libtriton
import gc
assert gc.get_freeze_count() > 0
"""


@pytest.mark.slow
def test_a_worker_ends_without_reports_of_leaks() -> None:
    pytest.importorskip("triton")
    done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, check=True)
    assert b"leak" not in done.stdout + done.stderr
