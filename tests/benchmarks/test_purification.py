"""Measurement and evaluation of purifiers: the arithmetic, the command lines, each once in this
process, as small as it can be."""

import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import adaptive_attacks, purification
from benchmarks.adaptive_attacks import Candidate
from benchmarks.common.measure import Measurement
from benchmarks.common.processes import Memory
from benchmarks.common.report import Spread
from benchmarks.tasks import purification as task
from fedrobust.defences.purification import base
from fedrobust.defences.purification.mdda import mdda
from fedrobust.learning.model_files import save_state
from tests.helpers import federations


def measured(result: dict[str, Any]) -> Measurement:
    return Measurement(wall=1.0, cpu=1.0, peak=Memory(), marks=(), result=result)


@pytest.mark.parametrize(
    "script", [purification, adaptive_attacks], ids=lambda script: script.__name__
)
def test_help_and_unknown_options(
    script: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, code in (
        (["--help"], 0),
        (["--unknown"], 2),
        ([".", "--json", "nowhere/out.json"], 2),
    ):
        with pytest.raises(SystemExit) as leaving:
            script.main(words)
        assert leaving.value.code == code
    assert "--quick" in capsys.readouterr().out


def test_wrong_input_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, line in (
        ([str(tmp_path)], "holds no manifest.json"),
        ([".", "--purifiers", "tv,bm3d"], "--purifiers=bm3d: must be of mdda"),
    ):
        with pytest.raises(SystemExit) as leaving:
            adaptive_attacks.main(words)
        assert leaving.value.code == 2
        assert line in capsys.readouterr().err


def test_of_large_images_fewer_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    # 512 * 28^2 / 64^2 = 98; / 224^2 = 8; / 1000^2 would be none
    monkeypatch.setattr(purification, "find_spec", lambda name: None)
    found = purification.cases(purification.parse(["--size", "12,28,64,224,1000"]))
    assert [case["images"] for case in found] == [512, 512, 98, 8, 4]
    assert {case["loop_images"] for case in found} == {0}


def test_speeds_and_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    # [seconds, processor's seconds] of an image
    loops = {"tv": [[0.2, 0.1], [0.8, 0.5]], "tv: a part": [[0.1, 0.1], [0.1, 0.1]]}
    found = measured(
        {
            "ours": {"tv": [[0.01, 0.01], [0.02, 0.01]], "jpeg": [[0.2, 0.2]]},
            "loops": loops,
            "energy": 0.99,
            "traffic": None,
        }
    )
    table = purification.summary(found)
    assert table["tv"]["speed"] == Spread(75.0, 50.0, 100.0)
    assert table["tv"]["loop"] == Spread(3.125, 1.25, 5.0)
    assert table["tv"]["faster"] == Spread(30.0, 20.0, 40.0)
    assert table["tv"]["cpu_faster"] == Spread(30.0, 10.0, 50.0)
    assert table["tv: a part"]["faster"] == Spread(7.5, 5.0, 10.0)
    assert table["jpeg"] == {"speed": Spread(5.0, 5.0, 5.0)}
    case = {"size": 28, "images": 4, "loop_images": 0, "device": "cpu", "threads": 1}
    purification.show(case, found)
    assert "scikit-image is not installed" in capsys.readouterr().out
    purification.show({**case, "loop_images": 2}, found)
    assert "0.9900 times the loop's" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_every_purifier_is_measured() -> None:
    given = {"size": 8, "images": 4, "loop_images": 0, "device": "cpu", "repeats": 2, "threads": 1}
    found = task.run(given, lambda number: None)
    assert set(found["ours"]) == set(task.PURIFIERS)
    assert all(
        len(times) == 2 and min(clock for clock, _ in times) > 0 for times in found["ours"].values()
    )
    assert (found["loops"], found["energy"]) == ({}, None)


@pytest.mark.slow
def test_the_loops_do_the_same() -> None:
    pytest.importorskip(
        "skimage.restoration", reason="scikit-image is not installed; there are no loops"
    )
    images = task.pictures(3, 24)
    settings = {"weight": 0.02, "iterations": 12, "std": 0.0, "blocks": 2, "smoothing": 1.0}
    assert [
        one.shape
        for one in task.mdda_denoising(
            images[0].permute(1, 2, 0).numpy(), settings, np.random.default_rng(0)
        )
    ] == [(side, side, 3) for side in (6, 12, 24, 48) for _ in range(2)]
    theirs = torch.from_numpy(np.stack(task.looped(task.mdda, settings, images))).permute(
        0, 3, 1, 2
    )
    ours = mdda(std=0.0, blocks=2, weight=0.02).purify(images, torch.Generator())
    # the filters for resampling differ, above all at the borders
    assert float((ours - theirs).abs().mean()) < 0.01
    assert task.compared(settings, images) < 1


def test_energy_by_hand() -> None:
    # ((0, 3), (4, 0)): at 00 hypot(4, 3) = 5, at 01 3, at 10 4, sum 12; squares of the change from
    # 0: 25 / 2; .5 * 12 + 12.5
    after = torch.tensor([[0.0, 3.0], [4.0, 0.0]]).view(1, 1, 2, 2)
    assert task.energy(after, torch.zeros(1, 1, 2, 2), 0.5) == pytest.approx(18.5)


def test_the_rule_of_choice() -> None:
    # undefended 70: 67 is admissible, 66.9 is not
    dear, cheap, better = (
        Candidate({"std": 1}, 66.9, 60.0),
        Candidate({"std": 2}, 69.0, 40.0),
        Candidate({"std": 3}, 67.0, 50.0),
    )
    assert adaptive_attacks.choose([dear, cheap, better], 70.0) == better
    assert adaptive_attacks.choose([dear, Candidate({"std": 4}, 50.0, 65.0)], 70.0) == dear


def test_one_setting_is_chosen_for_all_runs_by_its_means() -> None:
    runs = [
        {"tv": [Candidate({"weight": 0.1}, clean, attacked)]}
        for clean, attacked in ((60.0, 10.0), (80.0, 40.0))
    ]
    assert adaptive_attacks.average_runs(runs) == {"tv": [Candidate({"weight": 0.1}, 70.0, 25.0)]}


def test_runs_are_resampled_too() -> None:
    # one run: unchanged. Two runs that no image could change, 40 and 60: the mean is 50; half of
    # the replicates pick one of them twice and lie 10 sqrt(2 / 1) away
    one = {"none | clean": torch.tensor([40.0, 41.0, 39.0]).double()}
    assert adaptive_attacks.pool_runs([one])["none | clean"].tolist() == [40.0, 41.0, 39.0]
    two = adaptive_attacks.pool_runs(
        [{"none | clean": torch.full((401,), value).double()} for value in (40.0, 60.0)]
    )["none | clean"]
    assert two[0] == 50.0
    assert {round(value, 3) for value in two[1:].tolist()} == {
        50.0,
        round(50 - 10 * 2**0.5, 3),
        round(50 + 10 * 2**0.5, 3),
    }
    assert float((two[1:] != 50).double().mean()) == pytest.approx(0.5, abs=0.1)


def test_balanced_accuracy_by_hand() -> None:
    # class 0: 2 of 4 right, class 2: 1 of 1; class 1 does not occur
    assert (
        adaptive_attacks.balanced_accuracy(
            torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 0, 0, 0, 2])
        )
        == 75.0
    )


def test_the_share_given_back_by_hand() -> None:
    # clean 80, attacked 20, purified and attacked 50: 30 of 60 points; purified and clean 78: costs
    # 2
    values = {
        "none | clean": 80,
        "none | oblivious 4": 20,
        "tv | clean": 78,
        "tv | oblivious 4": 50,
        "tv | bpda_eot 4": 25,
    }
    none, tv = adaptive_attacks.rows(
        {name: torch.tensor([float(value)]) for name, value in values.items()}, ["tv"]
    )
    assert none == ["none", "80.0", "", "", "20.0", "", "", "", "0.0", "0.0"]
    assert tv == ["tv", "78.0", "", "", "50.0", "", "25.0", "", "2.0", "50.0"]
    # draws 0, 1, ..., 40: their 2.5 % point is 1, their 97.5 % point 39
    assert adaptive_attacks.interval(torch.tensor([7.0, *range(41)])) == "7.0 (1.0 to 39.0)"


@pytest.mark.slow
def test_a_run_from_its_folder_to_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = federations.build_server()
    (tmp_path / "manifest.json").write_text(json.dumps({"config": server.experiment.config}))
    save_state(tmp_path / "model.safetensors", server.layout, server.initial, server.model.anchors)
    monkeypatch.setattr(
        adaptive_attacks, "GRIDS", {"mdda": {"std": (0.01, 0.02)}, "jpeg": {"quality": (50,)}}
    )
    out = tmp_path / "out.json"
    words = [
        str(tmp_path),
        "--quick",
        "--purifiers",
        "mdda,jpeg",
        "--statistics",
        "8",
        "--json",
        str(out),
    ]
    assert adaptive_attacks.main([*words, str(tmp_path)]) == 0  # twice the same run
    content = json.loads(out.read_text())
    none, control, *_ = content["test"]
    assert [row[0] for row in content["test"]] == ["none", adaptive_attacks.CONTROL, "mdda", "jpeg"]
    assert none[1:3] != control[1:3]
    assert len(content["validation"]["mdda"]) == 2
    assert set(content["chosen"]) == {"none", "mdda", "jpeg"}
    assert content["test"][3][7] == ""  # JPEG cannot be differentiated
    assert "16 test images" in capsys.readouterr().out


@pytest.mark.slow  # compiles
@pytest.mark.skipif(not base.COMPILED, reason="numba is not installed")
def test_the_denoising_s_traffic_is_beside_that_of_a_plain_loop() -> None:
    found = task.traffic(task.pictures(1, 8), {"weight": 0.05, "iterations": 2})
    assert found is not None
    assert min(found.values()) > 0
    # 40 bytes are 3 arrays of 3 numbers, of 12 bytes each
    assert task.streamed(40)[1] == task.REPEATED * 36


def test_without_compiled_loops_there_is_no_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "COMPILED", False)
    assert task.traffic(task.pictures(1, 8), {"weight": 0.05, "iterations": 2}) is None
