"""Measurement of frozen runs: the arithmetic, the command line, the loops as small as can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import frozen
from benchmarks.common.measure import Measurement
from benchmarks.common.processes import Memory
from benchmarks.tasks import frozen as task


def measured(result: dict[str, Any], cpu: float = 1.0) -> Measurement:
    return Measurement(wall=1.0, cpu=cpu, peak=Memory(), marks=(), result=result)


def test_help_unknown_options_and_a_missing_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDROBUST_DATA", raising=False)
    for words, code in ((["--help"], 0), (["--unknown"], 2), ([], 2)):
        with pytest.raises(SystemExit) as leaving:
            frozen.main(words)
        assert leaving.value.code == code
    out, err = capsys.readouterr()
    assert "--quick" in out
    assert "--root: is missing" in err


def test_ratios_are_of_pairs_of_the_same_repeat() -> None:
    found = measured(
        {"times": {"ours": [[1.0, 2.0], [2.0, 2.0]], "plain": [[2.0, 1.0], [1.0, 4.0]]}}
    )
    summary = frozen.extraction_summary(found, 10)
    assert summary["ours"].high == 10
    assert (summary["ratio"].low, summary["ratio"].high) == (0.5, 2.0)
    assert (summary["cpu_ratio"].low, summary["cpu_ratio"].high) == (0.5, 2.0)
    runs = frozen.run_summary([measured({}, 12.0)], [measured({}, 4.0)])
    assert (runs["ours"].median, runs["plain"].median, runs["ratio"].median) == (12, 4, 3)


def test_the_measured_run_is_the_experiment_frozen(tmp_path: Path) -> None:
    words = frozen.run_words(frozen.parse(["--root", "data", "--weights", "random"]), "out")
    assert words[:2] == ["experiment=frozen", "data.root=data"]
    assert {"model.pretrained=false", "hydra.run.dir=out", "data.size=160"} <= set(words)


def test_both_loops_give_the_same_features() -> None:
    given = {"part": "extraction", "network": "resnet10t", "size": 32, "images": 3, "repeats": 2}
    marks: list[int] = []
    found = task.run(given, marks.append)
    assert found["difference"] < 1e-4
    assert marks == [0, 1]
    assert {name: len(times) for name, times in found["times"].items()} == {"ours": 2, "plain": 2}


def test_the_plain_training_counts_every_image() -> None:
    given = {
        **{"part": "training", "sizes": [5, 9], "features": 4, "hidden": [3], "classes": 2},
        **{"rounds": 2, "epochs": 3, "views": 2, "batch": 4, "judged": 6, "runs": 2},
    }
    assert task.run(given, lambda number: None)["trained"] == 14 * 2 * 3 * 2
