"""The comparison with a plain loop: its arithmetic on made-up figures, and one run of seconds."""

import json
import threading
from pathlib import Path

import pytest

from benchmarks import engines
from benchmarks.common.measure import Mark, Measurement
from benchmarks.common.processes import Memory
from benchmarks.common.report import Spread, command_line
from benchmarks.common.work import Work, shards, write_images
from benchmarks.contestants import fedrobust_engine, plain_loop, plain_pair
from benchmarks.engines import Entry, Run

PLAIN, INLINE = Entry("plain", "fedavg"), Entry("inline", "fedavg")


def measured(speed: float = 1.0, moved: float = 1.0, **changes: object) -> Measurement:
    """Three rounds of 2 s of CPU each, the first of 5 s; looks of half a second."""
    marks = [
        Mark(0, 1.0, 1.5, 1.0, Memory(9, 9, 0, 0)),
        Mark(1, 6.5, 7.0, 1 + 5 * speed, Memory(50, 50, 0, 0)),
    ]
    marks += [
        Mark(2, 9.0, 9.5, 1 + 7 * speed, Memory(30, 20, 5, 5)),
        Mark(3, 13.5, 14.0, 1 + 9 * speed, Memory(20, 19, 1, 0)),
    ]
    values = {
        "wall": 15.0,
        "cpu": 1 + 9 * speed,
        "peak": Memory(50, 50, 5, 5),
        "marks": tuple(marks),
        "result": {"moved": moved},
    }
    return Measurement(**{**values, **changes})


def test_steady_rounds_leave_out_the_first_and_the_looks() -> None:
    # CPU: (9 - 5) / 2 rounds; wall: (9.0 - 7.0 + 13.5 - 9.5) / 2; memory of rounds 2 and 3: 30, and
    # 20 + 5
    assert engines.steady(measured()) == {"cpu": 2.0, "wall": 3.0, "pss": 30, "own": 25}
    assert engines.whole(measured()) == {"cpu": 10.0, "wall": 15.0, "pss": 50, "own": 55}


def test_ratios_are_to_the_plain_loop_of_the_same_repeat() -> None:
    runs = [
        Run("w", PLAIN, 0, measured(1.0)),
        Run("w", PLAIN, 1, measured(2.0)),
        Run("w", PLAIN, 2, measured(1.0, failure="broken")),
    ]
    runs += [
        Run("w", INLINE, 0, measured(1.5)),
        Run("w", INLINE, 1, measured(2.0)),
        Run("w", INLINE, 2, measured(9.0)),
    ]
    found = engines.summary(runs, "steady")["inline fedavg"]["cpu"]
    assert found["value"] == Spread(4.0, 3.0, 18.0)
    assert found["ratio"] == Spread(1.25, 1.0, 1.5)  # the third has nothing to be compared with


@pytest.mark.parametrize("rule", engines.RULES)
def test_every_rule_is_a_strategy_with_the_number_of_attackers_that_it_takes(rule: str) -> None:
    words = fedrobust_engine.configure(Work("any", "small", 8, "nowhere"), "inline", rule)
    assert f"strategy={rule}" in words
    assert ("strategy.f=3" in words) == (rule in ("trimmed_mean", "multi_krum"))


def test_a_contestant_that_does_less_work_has_failed() -> None:
    work = Work("w", "small", 8, "", clients=3, rounds=3)
    assert work.done == {"trained": 72, "judged": 120}
    assert engines.check_work(measured(result={"trained": 72, "judged": 120}), work).failure == ""
    assert (
        "did {'trained': 71"
        in engines.check_work(measured(result={"trained": 71, "judged": 120}), work).failure
    )
    short = measured(result={"trained": 72, "judged": 120}, marks=measured().marks[:3])
    assert engines.check_work(short, work).failure


def test_a_half_of_a_pair_that_fails_ends_the_other_one(tmp_path: Path) -> None:
    work = Work("w", "small", 6, str(tmp_path), clients=3, rounds=1, validation=2, batch=4)
    write_images(work)
    barrier = threading.Barrier(1)

    def fail(number: int) -> None:
        raise RuntimeError("no mark")

    with pytest.raises(RuntimeError, match="no mark"):
        plain_pair._run_half(work, 0, barrier, fail)
    assert barrier.broken


def test_a_contestant_that_moved_elsewhere_is_named() -> None:
    runs = [Run("w", PLAIN, 0, measured()), Run("w", INLINE, 0, measured(moved=1.2))]
    assert engines.odd_ones(runs) == []
    [line] = engines.odd_ones([*runs, Run("w", Entry("pfl", "fedavg"), 0, measured(moved=3.0))])
    assert line.startswith("pfl moved")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--only", "inline,cloud"],
            "--only=cloud: must be of plain_pair, inline, ray, flower, ",
        ),
        (["--workload", "vgg"], "--workload=vgg: must be of resnet18, resnet50"),
        (["--repeats", "0"], "must be a whole number above zero"),
        (["--json", "nowhere/out.json"], "there is no such folder"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        engines.main(words)
    assert leaving.value.code == 2
    assert line in capsys.readouterr().err


def test_the_command_names_files_without_their_folders() -> None:
    assert (
        command_line("engines", ["--json", "/a/b/out.json", "--quick"])
        == "python -m benchmarks.engines --json out.json --quick"
    )


def test_the_plain_loop_and_our_engine_do_the_same_work(tmp_path: Path) -> None:
    work = Work("w", "small", 6, str(tmp_path), clients=3, rounds=2, validation=2, batch=4)
    write_images(work)
    parts, validation = shards(work)
    assert [len(part) for part in parts] == [6, 6, 6]
    assert len(validation) == 6
    for name, found, numbers in (
        ("plain", plain_loop.run(work, "fedavg", (seen := []).append), seen),
        (
            "ours",
            fedrobust_engine.run(work, "multi_krum", (others := []).append, engine="inline"),
            others,
        ),
    ):
        assert numbers == [0, 1, 2], name
        assert {key: found[key] for key in work.done} == work.done, name
        assert found["moved"] > 0


@pytest.mark.slow
def test_a_quick_run_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    words = ["--quick", "--repeats", "1", "--only", "plain_pair", "--rules", "fedavg"]
    assert engines.main([*words, "--json", str(out)]) == 0
    assert "plain loop" in capsys.readouterr().out
    found = json.loads(out.read_text())
    titles = {"plain loop", "two plain loops"}
    assert set(found["summary"]["quick"]["steady"]) == titles
    assert len(found["runs"]) == 2
    assert str(tmp_path) not in out.read_text()
