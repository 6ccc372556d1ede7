"""The other benchmarks: their arithmetic, their command lines, and each task once in this process,
as small as it can be."""

import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from benchmarks import (
    aggregation,
    compare,
    dml,
    engines,
    first_command,
    gpu,
    neighbour,
    scale,
    startup,
)
from benchmarks.aggregation import Case
from benchmarks.common.measure import Mark, Measurement
from benchmarks.common.processes import Memory
from benchmarks.common.report import Spread
from benchmarks.gpu import Lane
from benchmarks.tasks import aggregation as rules
from benchmarks.tasks import dml as taught
from benchmarks.tasks import scale as scaled
from fedrobust import configs
from fedrobust.experiment import compose, factories
from tests.helpers.processes import in_new_process

SCRIPTS = (aggregation, compare, dml, engines, first_command, gpu, neighbour, scale, startup)


def measured(result: dict[str, Any], **changes: Any) -> Measurement:
    values = {"wall": 1.0, "cpu": 1.0, "peak": Memory(), "marks": (), "result": result}
    return Measurement(**{**values, **changes})


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_help_and_unknown_options(
    script: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, code in ((["--help"], 0), (["--unknown"], 2), (["--json", "nowhere/out.json"], 2)):
        with pytest.raises(SystemExit) as leaving:
            script.main(words)
        assert leaving.value.code == code
    assert "--quick" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "words", "line"),
    [
        (compare, ["--only", "own,cold"], "--only=cold: must be of own, warm, pictures"),
        (startup, ["--only", "inline,stop"], "--only=stop: must be of simulate-help, compare-help"),
        (neighbour, ["--only", "smoke"], "--only=smoke: must be of smoke-inline, smoke-ray"),
        (neighbour, ["--policies", "none"], "--policies=none: must be of default, spinning"),
        (neighbour, ["--cores", "5000"], "--cores=5000: more than this process may use"),
        (aggregation, ["--sizes", "10"], "argument --sizes: : must be a whole number above zero"),
        (aggregation, ["--rules", "etf_dml"], "--rules=etf_dml: must be of alignins"),
        (scale, ["--scratch", "nowhere"], "--scratch=nowhere: there is no such folder"),
        (scale, ["--clients", "10,x"], "x: must be a whole number above zero"),
        (gpu, ["--rounds", "1"], "--rounds=1: must be at least 2"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    script: types.ModuleType, words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        script.main(words)
    assert leaving.value.code == 2
    assert line in capsys.readouterr().err


def test_without_a_gpu_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "has_gpu", lambda: False)
    assert gpu.main([]) == 2
    assert capsys.readouterr() == ("", "no GPU found\n")


def test_import_times_add_up_by_package() -> None:
    text = "import time: self [us] | cumulative | imported package\n"
    text += (
        "import time:      1500 |       1500 |     torch._C\nimport time:       "
        "500 |       2000 |   torch\n"
    )
    text += "import time:       250 |       2250 | fedrobust.runtime.simulation\nnoise\n"
    found = startup.imports(text)
    assert [(one.module, one.own, one.total) for one in found] == [
        ("torch._C", 1.5, 1.5), ("torch", 0.5, 2.0), ("fedrobust.runtime.simulation", 0.25, 2.25),
    ]  # fmt: skip
    assert startup.by_package(found) == {"torch": 2.0, "fedrobust": 0.25}


def test_the_overhead_of_a_cell_is_what_it_does_not_compute() -> None:
    cells = [{"cpu": 9.0, "computed": 1.0}] * compare.COLD + [
        {"cpu": 1.5, "computed": 1.0},
        {"cpu": 1.25, "computed": 1.0},
    ]
    found = {
        "own": [measured({"cells": [{"cpu": 3.0, "computed": 1.0}]}, cpu=6.0)],
        "warm": [measured({"cells": cells}), measured({}, failure="exit code 1")],
    }
    table = compare.summary(found)
    assert table["own"]["overhead"] == Spread(5.0, 5.0, 5.0)  # its start and end included
    assert table["warm"]["overhead"] == Spread(0.375, 0.25, 0.5)
    assert table["warm"]["ratio"] == Spread(0.075, 0.05, 0.1)
    assert "ratio" not in compare.summary({"warm": found["warm"]})["warm"]


def test_startup_leaves_out_runs_that_failed() -> None:
    found = {
        "help": [
            measured({}, wall=1.0),
            measured({}, wall=3.0),
            measured({}, wall=9.0, failure="exit code 1"),
        ],
        "ray": [],
    }
    assert startup.summary(found) == {
        "help": {"wall": Spread(2.0, 1.0, 3.0), "cpu": Spread(1, 1, 1), "pss": Spread(0, 0, 0)}
    }


def test_a_busy_neighbour_s_cost_is_taken_within_a_pair() -> None:
    pairs = [
        neighbour.Pair(measured({}, wall=2.0), measured({}, wall=4.0), ("a", "a")),
        neighbour.Pair(measured({}, wall=1.0), measured({}, wall=3.0), ("a", "b")),
        neighbour.Pair(measured({}), measured({}, wall=99.0, failure="killed"), ("a", "")),
    ]
    found = {("smoke-inline", "default"): pairs, ("smoke-ray", "default"): pairs[2:]}
    assert neighbour.summary(found)["smoke-inline", "default"]["slower"] == Spread(2.5, 2, 3)
    assert set(neighbour.summary(found)) == {("smoke-inline", "default")}
    assert neighbour.models(found) == {"smoke-inline": 2, "smoke-ray": 1}


def test_neighbours_are_busy_and_end() -> None:
    with neighbour.neighbours(1):
        (process,) = {*psutil.Process().children()}
        assert process.is_running()
    assert not psutil.pid_exists(process.pid)


@pytest.mark.parametrize("case", neighbour.CASES)
def test_every_run_beside_neighbours_can_be_composed(case: str, tmp_path: Path) -> None:
    *words, folder = neighbour.words(case, tmp_path)
    assert folder == f"hydra.run.dir={tmp_path}"
    config = compose.compose(*words)
    assert config["engine"]["threads"] is None
    assert config["evaluation"]["twin"] is False


def test_the_figures_of_a_scaled_run() -> None:
    marks = [
        Mark(0, 4.0, 4.1, 1.0, Memory(99, 99, 0, 0)),
        Mark(1, 9.0, 9.1, 2.0, Memory(30, 20, 10, 0)),
    ]
    marks.append(Mark(2, 14.0, 14.1, 3.0, Memory(25, 10, 15, 0)))
    first = {"train": 2.0, "aggregate": 1.0, "cpu_train": 1.0, "cpu_aggregate": 0.5, "clients": 100}
    rounds = [
        first,
        {"train": 4.0, "aggregate": 3.0, "cpu_train": 3.0, "cpu_aggregate": 1.5, "clients": 100},
    ]
    found = scale.figures(measured({"rounds": rounds}, marks=tuple(marks)))
    # round 2: 4 s for 100 clients are 40 ms each, 30 of the processor; round 1: 10; the memory of
    # the time before does not count
    times = {
        "start": 4.0,
        "client": 40.0,
        "client_cpu": 30.0,
        "client_first": 10.0,
        "aggregate": 3.0,
        "aggregate_cpu": 1.5,
    }
    assert found == {**times, "anonymous": 20, "mapped": 15, "pss": 30}


@pytest.mark.slow
def test_a_scaled_run_in_small_and_its_curves(tmp_path: Path) -> None:
    archive = tmp_path / "images.npz"
    given = {
        "clients": 5,
        "per_round": None,
        "model": "small",
        "strategy": "median",
        "rounds": 1,
        "threads": 1,
        "scratch": None,
    }
    given |= {**scale.write_images(archive, 5), "archive": str(archive)}
    numbers: list[int] = []
    found = scaled.run(given, numbers.append)
    assert numbers == [0, 1]
    assert found["rounds"][0]["clients"] == 5
    assert found["rounds"][0]["train"] > 0
    assert found["rounds"][0]["cpu_train"] > 0
    assert found["rounds"][0]["cpu_aggregate"] > 0
    assert found["parameters"] > 500_000
    values = dict.fromkeys(scale.FIGURES, 1.0)
    scale.draw(
        tmp_path / "curves.png",
        [({"clients": number, "strategy": "median"}, values) for number in (20, 10)],
    )
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_cases_of_the_sampled_run() -> None:
    options = scale.parse(["--sampled", "--clients", "100", "--strategies", "median,multi_krum"])
    found = [
        (case["clients"], case["per_round"], case["model"], case["strategy"])
        for case in scale.cases(options)
    ]
    assert found == [
        (100, None, "resnet18", "median"), (100, None, "resnet18", "multi_krum"),
        (10_000, 100, "small", "median"), (10_000, 100, "small", "multi_krum"),
    ]  # fmt: skip


def test_a_curve_says_beforehand_how_long_it_takes_and_what_it_needs() -> None:
    usual, few = scale.parse(["--sampled"]), scale.parse(["--clients", "20"])
    minutes, gigabytes = scale.forecast(usual)
    assert 20 < minutes < 90
    assert gigabytes == pytest.approx(44.8)
    assert scale.forecast(few)[1] == 0
    assert scale.forecast(few)[0] < minutes / 10
    scale.check_space(few, 0)
    with pytest.raises(SystemExit):
        scale.check_space(usual, 1e6)


# ByzFL stops earlier, by another criterion, or has another centre
OTHERWISE = ("geometric_median", "centered_clipping", "caf", "monna")


@pytest.mark.slow
def test_every_rule_without_images_of_the_server_is_measured() -> None:
    named = {path.stem for path in (Path(configs.__file__).parent / "strategy").glob("*.yaml")}
    assert {
        name
        for name in named
        if not factories.build_group(compose.compose(f"strategy={name}"), "strategy").uses
    } == set(aggregation.RULES)


@pytest.mark.parametrize(
    ("rule", "by"),
    [
        (rule, by)
        for by, known in aggregation.REFERENCES.items()
        for rule in known
        if rule not in OTHERWISE
    ],
)
def test_the_references_compute_what_our_rules_compute(rule: str, by: str) -> None:
    matrix_ND = torch.randn(11, 500, generator=torch.Generator().manual_seed(1))
    mine = rules.ours(rule, matrix_ND, 3)().state.parameters
    other: Callable[[], Any] = rules.MAKERS[by](rule, matrix_ND, 3)
    np.testing.assert_allclose(np.asarray(other()).reshape(-1), mine.numpy(), atol=2e-6)


@pytest.mark.slow
def test_a_measured_rule_has_seconds_and_megabytes() -> None:
    given = {
        "rule": "median",
        "by": "numpy",
        "clients": 5,
        "parameters": 2_000_000,
        "f": 1,
        "repeats": 2,
        "threads": 1,
    }
    found = in_new_process(rules.run, given, int)
    assert len(found["seconds"]) == 2
    assert 25 < found["extra_mb"] < 150  # the matrix has 40 MB, of which numpy makes a copy or two


def test_ratios_of_aggregation_are_ours_to_theirs_and_what_is_too_big_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = Case(10, 1000, "median", "ours"), Case(10, 1000, "median", "numpy")
    found = {
        ours: measured({"seconds": [2.0], "cpu": [1.0], "extra_mb": 10.0, "read": 0.5}),
        theirs: measured({"seconds": [4.0], "cpu": [3.0], "extra_mb": 40.0, "read": 0.5}),
    }
    first, second = aggregation.summary(found)
    assert "time_ratio" not in first
    assert (second["time_ratio"], second["faster"], second["memory_ratio"]) == (0.5, 2.0, 0.25)
    assert (first["reads"], second["reads"], second["cpu_faster"]) == (4.0, 8.0, 3.0)
    assert first["matrices"] == pytest.approx(251.0)  # 0.04 MB and 10 more
    assert [Case(n, 1, "krum", "ours").f for n in (3, 5, 9, 100)] == [0, 1, 3, 3]
    assert [Case(n, 1, "bulyan", "ours").f for n in (3, 7, 10, 15)] == [0, 1, 1, 3]
    both = aggregation.cases(aggregation.parse(["--sizes", "10x1,100x1", "--rules", "mda"]))
    assert [(case.clients, case.by) for case in both] == [
        (10, "ours"),
        (10, "byzfl"),
        (100, "ours"),
    ]
    monkeypatch.setattr(aggregation, "available_gigabytes", lambda: 1e-6)
    assert aggregation.measure_all(aggregation.parse(["--quick"])) == {}


@pytest.mark.slow
def test_the_server_part_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(name: str, settings: dict[str, Any], **_: Any) -> Measurement:
        return measured(taught.run(settings, lambda number: None))

    monkeypatch.setattr(dml, "run_task", here)
    [case] = dml.cases(dml.parse(["--quick"]))
    found = dml.measure(case, timeout=1)
    assert found.result["kept"] == {"trust": 3, "ensemble": 3, "mutual": 3}
    assert found.result["proxy"] == 16
    table = dml.summary(found)
    assert table["passes"]["ratio"] == Spread(1.0, 1.0, 1.0)
    assert table["mutual"]["seconds"].median > table["trust"]["seconds"].median
    seconds = [table[name]["seconds"].median for name in ("trust", "training")]
    assert table["trust"]["share"].median == pytest.approx(seconds[0] / sum(seconds))


def test_speeds_on_a_gpu() -> None:
    def run(seconds: float, **changes: Any) -> Measurement:
        marks = [Mark(n, 100 + n * seconds, 100 + n * seconds, 0.0, Memory()) for n in range(4)]
        return measured({}, marks=tuple(marks), **changes)

    found = {
        Lane("plain"): [run(2.0), run(1.0)],
        Lane("ray", 2): [run(1.0), run(9.0, failure="broken")],
        Lane("inline"): [],
    }
    table = gpu.speeds(found, 100)
    assert set(table) == {"plain loop", "ray, 2 on the GPU"}
    assert table["plain loop"]["images"] == Spread(75.0, 50.0, 100.0)
    assert table["ray, 2 on the GPU"]["ratio"] == Spread(2.0, 2.0, 2.0)


def test_lanes_of_the_gpu() -> None:
    assert [lane.title for lane in gpu.lanes(gpu.parse(["--workers", "1,4"]))] == [
        "plain loop",
        "inline",
        "ray, 1 on the GPU",
        "ray, 4 on the GPU",
    ]
    assert gpu.lanes(gpu.parse(["--tiny"])) == [Lane("plain"), Lane("inline")]


def test_figures_of_the_first_command_are_of_the_rounds_in_which_clients_trained(
    tmp_path: Path,
) -> None:
    def line(number: int, seconds: dict[str, float], fallbacks: int) -> str:
        extras = {"fallbacks": fallbacks}
        return json.dumps({"round": number, "seconds": seconds, "extras": extras})

    first = line(0, {"evaluate": 50.0}, 1)
    one = line(1, {"train": 6.0, "aggregate": 1.0, "evaluate": 1.0}, 1)
    two = line(2, {"train": 10.0, "aggregate": 2.0}, 0)
    (tmp_path / "rounds.jsonl").write_text(f"{first}\n{one}\n")
    (tmp_path / "twin_rounds.jsonl").write_text(f"{first}\n{two}\n")
    evaluations = {"clean": {"balanced_accuracy": 70.0}, "twin_clean": {"balanced_accuracy": 90.0}}
    found = {"timing": {"run": 8.0, "twin": 12.0}, "evaluations": evaluations, "detection": None}
    (tmp_path / "report.json").write_text(json.dumps(found))
    figures = first_command.figures(tmp_path, measured({}, wall=30.0))
    assert figures["share"] == pytest.approx(100 * 3 / 20)  # (1 + 2) of (6+1+1 + 10+2) seconds
    assert (figures["round"], figures["wall"], figures["rounds"]) == (10.0, 30.0, 2)
    assert (figures["kept"], figures["twin_accuracy"], figures["precision"]) == (1, 90.0, 0.0)
