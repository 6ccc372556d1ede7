"""Whole runs that are killed at any moment and resumed to the same result."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fedrobust import simulate
from fedrobust.errors import ConfigError
from fedrobust.experiment import old_names
from fedrobust.reporting.records import Recorder, read_rounds
from fedrobust.reporting.report import Report, read_report
from fedrobust.runtime import resume, simulation
from fedrobust.types import RoundRecord
from fedrobust.utils.locking import hold_lock
from tests.helpers.federations import SMALL_RUN
from tests.helpers.old_names import age_run
from tests.helpers.plugins import importable

ROOT = Path(__file__).parents[2]
SMALL = (
    "experiment=smoke",
    *SMALL_RUN,
    "rounds=3",
    "engine=inline",
    "engine.threads=1",
    "evaluation.bootstrap_samples=20",
)
# A trainer and a rule that remember, and BatchNorm statistics that never leave their client.
WITH_MEMORY = (
    "client=global_distillation",
    "+client.lr_plateau.factor=0.5",
    "+client.lr_plateau.patience=0",
    "server.batchnorm=local",
)

# Runs command lines one after the other, each in a process of its own (forked after the long
# imports), which kills itself at a moment of its life: in the middle of a round's training, or of a
# checkpoint, or at a named stage. Prints exit codes and outputs as JSON.
MORTALS = """
import json, os, signal, sys
from fedrobust.runtime import simulation as job
from fedrobust.reporting import records
from fedrobust import simulate
from fedrobust.errors import ConfigError
from fedrobust.experiment import old_names
from fedrobust.utils import tensor_files as tensorfile

def mortal(moment, run, number):
    now = {"run": "", "round": 0}
    def die_if(what, *where):
        if what == moment and where == (run, number):
            os.kill(os.getpid(), signal.SIGKILL)
    class Mortal(records.Recorder):
        def round_started(self, run, number):
            now.update({"run": run, "round": number})
        def client_done(self, run, stage, client, failed):
            die_if(stage, *now.values())
        def stage(self, run, text):
            die_if(text, *now.values())
    plain = tensorfile.pieces
    def pieces(tensors, notes=None, seal=False):
        for piece in plain(tensors, notes, seal):
            yield piece
            if seal:
                die_if("checkpoint", notes["run"], int(notes["round"]))
    tensorfile.pieces, job.Recorder = pieces, Mortal

answers = []
for number, (moment, cache, words) in enumerate(json.loads(sys.argv[1])):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        output = os.open(f"output{number}", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1), os.dup2(output, 2)
        os.environ["FEDROBUST_CACHE"], sys.argv = cache, ["simulate", *words]
        mortal(*moment)
        simulate.main()
        sys.stdout.flush()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    answers.append((code, open(f"output{number}").read()))
print(json.dumps(answers))
"""


# (when to die: at what, in which run and round), the cache, the words
Step = tuple[tuple[str, str, int], str, list[str]]
NEVER = ("", "", 0)


def lives(folder: Path, *steps: Step) -> list[tuple[int, str]]:
    """The exit code and the output of each."""
    given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HYDRA_FULL_ERROR": "1"}
    command = [sys.executable, "-c", MORTALS, json.dumps(steps)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=240, check=False, env=given
    )
    assert done.returncode == 0, done.stderr
    return [(code, text) for code, text in json.loads(done.stdout)]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The command line in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["simulate", *words])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    try:
        simulate.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def untimed(folder: Path) -> Report:
    """The report without what a clock says."""
    return read_report(folder).model_copy(update={"timing": {}})


def rounds(folder: Path, name: str) -> list[RoundRecord]:
    return [replace(record, seconds={}) for record in read_rounds(folder, name)]


def assert_same_end(one: Path, two: Path) -> None:
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert untimed(one) == untimed(two)
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    for name in ("run", "clean twin"):
        assert [record.number for record in read_rounds(one, name)] == [0, 1, 2, 3]
        assert rounds(one, name) == rounds(two, name)
    pd.testing.assert_frame_equal(
        pd.read_csv(one / "clients.csv"), pd.read_csv(two / "clients.csv")
    )


@pytest.mark.slow
def test_killed_again_and_again_a_run_comes_to_the_same_end(tmp_path: Path) -> None:
    """The clean twin of each comes from a cache of its own, so that both are trained."""
    go_on = ["resume=torn"]
    answers = lives(
        tmp_path,
        (NEVER, "other", [*SMALL, *WITH_MEMORY, "hydra.run.dir=whole"]),
        (("train", "run", 2), "cache", [*SMALL, *WITH_MEMORY, "hydra.run.dir=torn"]),
        (("checkpoint", "run", 2), "cache", go_on),
        (("aggregate", "clean twin", 2), "cache", go_on),
        (("evaluate the test images", "clean twin", 3), "cache", go_on),
        (NEVER, "cache", go_on),
        (NEVER, "cache", go_on),
    )
    assert [code for code, _ in answers] == [0, *4 * [-signal.SIGKILL], 0, 2], answers[-2][1]
    last = answers[-2][1]
    assert "run: resumes after round 3" in last
    assert "taken from the cache" in last  # the twin was finished, nothing is trained any more
    assert ": train" not in last
    assert "this run is finished" in answers[-1][1]
    assert_same_end(tmp_path / "whole", tmp_path / "torn")
    assert [
        one["changed"]
        for one in json.loads((tmp_path / "torn" / "manifest.json").read_text())["resumed"]
    ] == [[]] * 4


@pytest.fixture
def interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Path:
    """A run that Ctrl-C ended in its third round; its cache is its own."""
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "cache"))

    def stop(self: Recorder, name: str, stage: str, client: int, failed: bool) -> None:
        if len(read_rounds(tmp_path / "torn")) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "client_done", stop)
        assert run(patch, *SMALL, *WITH_MEMORY, f"hydra.run.dir={tmp_path / 'torn'}") == 130
    assert (
        capsys.readouterr().err
        == f"interrupted: resume with python -m fedrobust.simulate resume={tmp_path / 'torn'}\n"
    )
    return tmp_path / "torn"


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(
    interrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    newest = interrupted / "checkpoints" / "run-000002.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert run(monkeypatch, f"resume={interrupted}") == 0
    printed = capsys.readouterr().out
    assert (
        "checkpoint run-000002.safetensors: damaged or cut off, its hash "
        "differs\nrun: resumes after round 1\n"
    ) in printed
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "other"))
    assert run(monkeypatch, *SMALL, *WITH_MEMORY, f"hydra.run.dir={tmp_path / 'whole'}") == 0
    assert_same_end(tmp_path / "whole", interrupted)


@pytest.mark.slow
def test_a_run_that_an_older_version_began_goes_on(
    interrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its manifest and its checkpoints have the names of its time, and keep them."""
    age_run(interrupted)
    old_names.tell.cache_clear()
    assert run(monkeypatch, f"resume={interrupted}") == 0
    printed = capsys.readouterr()
    assert "run: resumes after round 2\n" in printed.out
    assert printed.err.count("note: server.proxy is now server.proxy_images;") == 1
    kept = json.loads((interrupted / "manifest.json").read_text())["config"]
    assert "proxy" in kept["server"]
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "other"))
    assert run(monkeypatch, *SMALL, *WITH_MEMORY, f"hydra.run.dir={tmp_path / 'whole'}") == 0
    assert_same_end(tmp_path / "whole", interrupted)


RAY = {"_target_": "fedrobust.runtime.engines.ray_engine"}


@pytest.mark.parametrize(
    ("written", "words", "address"),
    [
        ({**RAY, "address": "evil:6379"}, (), None),
        ({**RAY, "address": "auto"}, (), None),
        ({**RAY, "address": "evil:6379"}, ("engine.workers=2",), None),
        ({**RAY, "address": "evil:6379"}, ("engine.address=head:1",), "head:1"),
        ({**RAY, "address": "evil:6379"}, ("engine.address=evil:6379",), "evil:6379"),
        ({**RAY, "address": "evil:6379"}, ("engine.address=local",), "local"),
        ({**RAY, "address": "evil:6379"}, ("engine=inline",), ""),
        ({**RAY, "address": None}, (), ""),
        ({**RAY, "address": "local"}, (), "local"),
    ],
)
def test_no_address_is_taken_from_a_manifest(
    written: dict[str, object], words: tuple[str, ...], address: str | None, tmp_path: Path
) -> None:
    asked = resume.Resumption(tmp_path, {}, words)
    if address is None:
        with pytest.raises(ConfigError, match=rf"^engine\.address={written['address']}: stands in"):
            simulation._engine_of(asked, written)
    else:
        assert (simulation._engine_of(asked, written).get("address") or "") == address


@pytest.mark.slow
def test_a_dry_run_says_what_is_left_and_changes_nothing(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}
    assert run(monkeypatch, f"resume={interrupted}", "dry_run=true", "engine.threads=2") == 0
    lines = capsys.readouterr().out.splitlines()
    rounds = json.loads((interrupted / "manifest.json").read_text())["config"]["rounds"]
    assert lines[:2] == [
        "dry run: nothing is trained to the end or written",
        f"resumes after round 2 of {rounds}",
    ]
    assert "engine: inline, one process, 2 threads each" in lines
    assert lines[-1] == f"folder: {interrupted}"
    assert {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_what_is_refused_and_what_is_said(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}
    capsys.readouterr()

    def refused(line: str, *words: str) -> None:
        assert run(monkeypatch, f"resume={interrupted}", *words) == 2
        printed = capsys.readouterr().err
        assert re.fullmatch(f"error: {line}\n", printed), printed
        assert {
            path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()
        } == before

    refused(
        r"seed=3: cannot be given beside resume, which takes all settings from the "
        r"folder; only engine=\.\.\. and plugins=\[\.\.\.\] can",
        "seed=3",
    )
    refused(r"engine\.colour=red: unknown setting; known are threads", "engine.colour=red")
    refused(
        r"engine\.gpus_per_worker: 0 or not decides .*", "engine=ray", "engine.gpus_per_worker=0"
    )
    refused("engine=warp: no such choice; engine can be .*", "engine=warp")
    with hold_lock(interrupted):
        before[interrupted / ".lock"] = b""
        refused(
            rf"{interrupted}: another process is at work in this folder; wait for it or stop it"
        )
        del before[interrupted / ".lock"]
    (interrupted / "manifest.json").write_bytes(
        before[interrupted / "manifest.json"].replace(b'"digest": "', b'"digest": "0')
    )
    before[interrupted / "manifest.json"] = (interrupted / "manifest.json").read_bytes()
    refused(
        rf"resume={interrupted}: the data are no longer those of the run \(their "
        r"digest differs\); start a new run with them"
    )
    (interrupted / "manifest.json").write_bytes(
        before[interrupted / "manifest.json"]
        .replace(b'"digest": "0', b'"digest": "')
        .replace(b'"frozen_sha256": ""', b'"frozen_sha256": "ab"')
    )
    before[interrupted / "manifest.json"] = (interrupted / "manifest.json").read_bytes()
    refused(
        rf"resume={interrupted}: what is frozen of the model is no longer that of the run \(its "
        r"digest differs\); start a new run with it"
    )
    fixed = (
        before[interrupted / "manifest.json"]
        .replace(b'"frozen_sha256": "ab"', b'"frozen_sha256": ""')
        .replace(b'"client_threads": 1', b'"client_threads": 2')
    )
    (interrupted / "manifest.json").write_bytes(fixed)
    assert run(monkeypatch, f"resume={interrupted}", "engine.threads=1") == 0
    assert (
        "conditions have changed since the run began (engine.threads 2 -> 1): the "
        "result need not be bit-equal"
    ) in capsys.readouterr().out
    assert json.loads((interrupted / "manifest.json").read_text())["resumed"][0]["changed"] == [
        "engine.threads 2 -> 1"
    ]
    # this twin was trained wholly under the conditions of now
    assert (interrupted.parent / "cache" / "twins").exists()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        ([], "no such folder"),
        (
            [""],
            r"holds no manifest\.json, so no run to resume; start it anew in another folder",
        ),
        (
            ["manifest.json="],
            r"manifest\.json cannot be read \(.*\); start the run anew in another folder",
        ),
        (["manifest.json=[]"], r"manifest\.json is not that of a run"),
        (["manifest.json=" + "[" * 10**5], r"manifest\.json cannot be read \(.*\); start the run"),
        (
            ['manifest.json={"config": {}, "data": {}, "resumed": [1]}'],
            r"manifest\.json is not that of a run",
        ),
        (
            ['manifest.json={"config": {}, "data": {}}', "report.json={}", "report.html="],
            r"this run is finished, see .*report\.json",
        ),
        (
            ['manifest.json={"config": {}, "data": {}}', "report.json={}"],
            r"this run is finished, see .*report\.json",
        ),
        (
            ['manifest.json={"config": {}, "data": {}}'],
            r"written by another version of the program \(.*: is missing; .*\); start it anew",
        ),
    ],
)
def test_folders_without_an_unfinished_run(
    make: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "out"
    for one in make:
        folder.mkdir(exist_ok=True)
        name, _, text = one.partition("=")
        if name:
            (folder / name).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    assert run(monkeypatch, f"resume={folder}") == 2
    printed = capsys.readouterr().err
    assert re.match(rf"error: resume={folder}: {line}", printed), printed
    assert printed.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["resume="], "resume=: names no folder; give the output folder of a run that was stopped"),
        (["resume=a", "resume=b"], "resume=b: given twice; one folder at a time"),
        (["--multirun", "resume=a"], "--multirun: cannot be given beside resume, .*"),
        (
            ["resume=a", "+engine.threads=1"],
            r"\+engine\.threads=1: cannot be given beside resume, .*",
        ),
    ],
)
def test_wrong_words(
    words: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *words) == 2
    assert re.fullmatch(f"error: {line}\n", capsys.readouterr().err)


def test_a_run_killed_before_its_page_was_made_is_not_finished(tmp_path: Path) -> None:
    (tmp_path / "report.json").touch()
    assert resume.is_finished(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert not resume.is_finished(tmp_path)
    (tmp_path / "report.html").touch()
    assert resume.is_finished(tmp_path)


def test_what_a_command_line_asks_for_is_read_without_torch() -> None:
    code = "import sys, fedrobust.runtime.resume; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_with_blanks_is_quoted() -> None:
    assert (
        resume.resume_command(Path("my runs/a"))
        == "python -m fedrobust.simulate 'resume=my runs/a'"
    )


def test_no_plugin_is_imported_because_a_manifest_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with importable(tmp_path / "site"):
        folder.mkdir()
        manifest = {"config": {"plugins": ["mylab"]}, "data": {}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        word = f"resume={folder}"
        with pytest.raises(ConfigError, match=r"manifest\.json alone.* add plugins=\[mylab\]"):
            resume.read_request([word])
        asked = resume.read_request([word, "plugins=[mylab]", "engine=inline"])
        assert (asked.folder, asked.engine_words) == (folder, ("engine=inline",))
        assert "mylab" not in sys.modules
        assert resume.resume_command(folder).endswith(f"{word} 'plugins=[mylab]'")
