"""The main job as a person runs it: one command, its output folder, wrong input, interruption, a
sweep."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import fedrobust
from fedrobust import simulate
from fedrobust.errors import RunError
from fedrobust.experiment.settings import read_settings
from fedrobust.reporting.report import read_report
from fedrobust.runtime import simulation
from fedrobust.studies import sweep_summary
from fedrobust.studies.sweep_summary import SweepJob
from tests.helpers.processes import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[1]
FILES = {
    "manifest.json",
    "run.log",
    "rounds.jsonl",
    "twin_rounds.jsonl",
    "clients.csv",
    "report.json",
    "report.html",
    "model.safetensors",
    "predictions.npz",
}


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The command line in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["simulate", *words])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    try:
        simulate.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


@pytest.fixture(scope="module")
def smoke(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("run") / "out"
    command = [
        sys.executable,
        "-m",
        "fedrobust.simulate",
        "experiment=smoke",
        "noisy=1",
        f"hydra.run.dir={folder}",
    ]
    return folder, subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_one_command_fills_the_output_folder(
    smoke: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = smoke
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == FILES
    report = read_report(folder)  # checks the contract
    assert set(report.drops.present) == {"poisoning", "corruption", "total", "clients"}
    assert (len(report.poisoned), len(report.noisy), report.strategy) == (1, 1, "etf_dml")
    assert json.loads((folder / "manifest.json").read_text())["config"]["num_clients"] == 3
    # the untrained model and one round
    assert len((folder / "rounds.jsonl").read_text().splitlines()) == 2
    for word in ("Performance drop", "poisoning", "Combined", "3 hospitals", "root (28 images)"):
        assert word in done.stdout
    assert "\x1b" not in done.stdout
    assert "Warning" not in done.stderr, done.stderr


@pytest.mark.slow
def test_the_same_seed_gives_the_same_result_and_takes_the_twin_from_the_cache(
    smoke: tuple[Path, subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        run(monkeypatch, "experiment=smoke", "noisy=1", f"hydra.run.dir={tmp_path / 'again'}") == 0
    )
    assert "taken from the cache" in capsys.readouterr().out
    first, second = (
        read_report(folder).model_copy(update={"timing": {}})
        for folder in (smoke[0], tmp_path / "again")
    )
    assert first == second
    assert (smoke[0] / "model.safetensors").read_bytes() == (
        tmp_path / "again" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["num_cliens=3"], r"num_cliens=3: unknown key; did you mean num_clients=3\?"),
        (
            ["client.optimizer.momentum=0.9"],
            (
                r"a keyword of the library is added with a plus sign: "
                r"\+client\.optimizer\.momentum=0\.9"
            ),
        ),
        (
            ["strategy=magic"],
            r"strategy=magic: no such choice; `python -m fedrobust.simulate --help` lists all \d+",
        ),
        (["poisoned=11"], r"poisoned=11: more than num_clients=10"),
        (["strategy=krum", "num_clients=4"], r"strategy\.f=3: strategy=krum then needs at least 9"),
        (["noise.std=-0.1"], r"noise\.std=-0\.1"),
        (["model.head=linear"], r"client\.loss=dot_regression: needs model\.head=etf"),
        (
            ["server.root_per_class=0"],
            r"server\.root_per_class=0: strategy=etf_dml needs root images",
        ),
        (["contamination.rate=2"], r"contamination\.rate=2"),
        (["data=ham10000", "data.root=/nowhere"], r"/nowhere"),
        (["client.optimizer.lr=nan"], r"client\.optimizer"),
        (["rounds=[1"], r"rounds"),
        (["model.dimension=3"], r"model\.dimension=3"),
        (["model.checkpoint=/nowhere.safetensors"], r"/nowhere\.safetensors"),
        (["engine=ray", "engine.workers=500"], r"engine\.workers=500"),
        (
            ["model.name=vit_tiny_patch16_224", "model.options=null"],
            r"model\.name=vit_tiny_patch16_224: cannot take images of 32 pixels",
        ),
    ],
)
def test_wrong_input_ends_with_one_line_and_code_2(
    words: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "out"
    assert run(monkeypatch, *words, f"hydra.run.dir={folder}") == 2
    printed = capsys.readouterr()
    assert re.search(line, printed.err), printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert not folder.exists()


@pytest.mark.slow
def test_a_run_that_fails_ends_with_code_1_one_line_and_its_failures_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate that throws every client's weights to infinity."""
    assert (
        run(
            monkeypatch,
            "experiment=smoke",
            "client.optimizer.lr=1e30",
            f"hydra.run.dir={tmp_path / 'out'}",
        )
        == 1
    )
    assert re.fullmatch(
        r"error: round 1: 3 clients failed, server\.max_failures=0 \(client 0: .*\)\n",
        capsys.readouterr().err,
    )
    last = json.loads((tmp_path / "out" / "rounds.jsonl").read_text().splitlines()[-1])
    assert [failure["client"] for failure in last["failures"]] == [0, 1, 2]
    assert "Traceback" in last["failures"][0]["traceback"]


def test_nothing_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    assert run(monkeypatch, "experiment=smoke", f"hydra.run.dir={tmp_path}") == 2
    assert "already holds files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_a_dry_run_says_what_would_run_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out"
    words = ["experiment=smoke", "strategy=fedavg", f"hydra.run.dir={folder}", "dry_run=true"]
    assert run(monkeypatch, *words) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.startswith("dry run: nothing is trained to the end or written\n")
    assert shown.out.endswith(f"folder: {folder}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["strategy=krum", "strategy.f=9"], "then needs at least 21 clients"),
        (["strateg=krum"], "unknown key"),
        (["resume=here"], "resume=here: no such folder"),
        (["--cfg", "job"], "dry_run=true: cannot be given beside --cfg"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(
    words: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    first = [] if words[0].startswith("resume") else ["experiment=smoke"]
    assert run(monkeypatch, *first, *words, "dry_run=true") == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / "out"
    assert run(monkeypatch, "experiment=smoke", f"hydra.run.dir={folder}") == 1
    assert re.fullmatch(
        rf"error: hydra\.run\.dir={tmp_path}\S*: cannot be made \(Not a directory\); choose "
        "another folder\n",
        capsys.readouterr().err,
    )


@pytest.mark.slow
def test_interruption_leaves_what_was_finished(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "fedrobust.simulate",
        "experiment=smoke",
        "rounds=500",
        f"hydra.run.dir={tmp_path / 'out'}",
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    rounds = tmp_path / "out" / "rounds.jsonl"
    wait_until(lambda: rounds.exists() and rounds.read_text().count("\n") >= 2, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert errors.strip().splitlines() == [
        f"interrupted: resume with python -m fedrobust.simulate resume={tmp_path / 'out'}"
    ]
    assert all(json.loads(line) for line in rounds.read_text().splitlines())
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.slow
def test_a_sweep_runs_every_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "--multirun",
        "experiment=smoke",
        "evaluation.twin=false",
        "strategy=fedavg,median",
        f"hydra.sweep.dir={tmp_path}",
    ]
    assert run(monkeypatch, *words) == 0
    assert sorted(
        read_report(folder).strategy for folder in tmp_path.iterdir() if folder.is_dir()
    ) == ["fedavg", "median"]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """(rule, folder) of every job that was accepted; nothing is trained, rounds=7 fails."""
    started: list[tuple[str, Path]] = []

    def run_job(config: dict[str, Any], folder: Path, *, quiet: bool) -> None:
        read_settings(config)
        assert quiet == ("quiet" in str(folder))
        if config["rounds"] == 7:
            raise RunError("round 1: 3 clients failed")
        if config["rounds"] == 8:
            raise KeyboardInterrupt
        started.append((config["strategy"]["_target_"].rpartition(".")[2], folder))

    monkeypatch.setattr(simulation, "run_job", run_job)
    monkeypatch.setattr(sweep_summary, "print_sweep", _print_folders)
    return started


def _print_folders(found: Mapping[int, SweepJob]) -> None:
    print("summary:", {number: one.folder is not None for number, one in found.items()})


def test_a_quiet_sweep_says_nothing_of_jobs_that_run(
    jobs: list[tuple[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--multirun", "rounds=1,2", "quiet=true", f"hydra.sweep.dir={tmp_path / 'quiet'}"]
    assert run(monkeypatch, *words) == 0
    assert len(jobs) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "case",
    [
        ("strategy=magic,fedavg,median", ["fedavg", "median"], ["strategy=magic"], 2),
        ("strategy=fedavg,median rounds=0,1", ["fedavg", "median"], ["rounds=0"] * 2, 2),
        ("rounds=7,0,1", ["etf_dml"], ["round 1: 3 clients failed", "rounds=0"], 1),
        ("strategy=glob(feda*) rounds=range(0,2)", ["fedavg"], ["rounds=0"], 2),
    ],
)
def test_a_refused_job_of_a_sweep_keeps_no_other_from_running_and_is_listed(
    case: tuple[str, list[str], list[str], int],
    jobs: list[tuple[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    choices, accepted, refused, code = case
    assert run(monkeypatch, "-m", *choices.split(), f"hydra.sweep.dir={tmp_path}") == code
    assert [rule for rule, _ in jobs] == accepted
    assert len({folder for _, folder in jobs}) == len(jobs)
    assert {folder.parent for _, folder in jobs} == {tmp_path}
    out, err = capsys.readouterr()
    *lines, last = err.splitlines()
    total = len(accepted) + len(refused)
    summary = out.splitlines()[-1]  # the table is the last thing that a sweep prints
    assert summary.startswith("summary: ")
    assert (summary.count("True"), summary.count("False")) == (len(accepted), len(refused))
    assert last == f"error: {len(refused)} of {total} jobs failed, listed above"
    assert len(lines) == len(refused)
    for line, reason in zip(lines, refused, strict=True):
        assert re.match(rf"job \d of {total} \(.*\): {re.escape(reason)}", line), line


def test_an_interrupted_sweep_says_what_did_not_run(
    jobs: list[tuple[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--multirun", "rounds=1,8,2,3", f"hydra.sweep.dir={tmp_path}"]
    assert run(monkeypatch, *words) == 130
    assert len(jobs) == 1
    line = "interrupted: nothing was written yet; 2 jobs after it did not run\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("hydra.run.dir=a", "hydra.run.dir=a: is for one run; for a sweep write hydra.sweep.dir"),
        ("hydra.sweeper.max_batch_size=2", "a sweep runs its jobs here, one after the other"),
        ("rounds=interval(1,3)", "names no values; list them, separated by commas"),
        ("num_cliens=3", "did you mean num_clients=3"),
    ],
)
def test_a_sweep_that_cannot_start_ends_with_one_line(
    word: str,
    line: str,
    jobs: list[tuple[str, Path]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "--multirun", word, "seed=1,2") == 2
    assert not jobs
    printed = capsys.readouterr().err
    assert line in printed
    assert printed.count("\n") == 1


def test_version_is_the_programs_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    assert re.fullmatch(
        rf"fedrobust {re.escape(fedrobust.__version__)} "
        r"\(torch [\d.]+\S*, flwr [\d.]+\S*, Python [\d.]+\)\n",
        capsys.readouterr().out,
    )


WITHOUT_UNIX = """
import sys
from collections.abc import Mapping
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None  # as if there were none
import fedrobust.simulate, fedrobust.runtime.simulation
"""


@pytest.mark.slow
def test_the_job_imports_without_the_modules_that_windows_lacks() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_UNIX],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
