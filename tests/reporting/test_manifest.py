from __future__ import annotations

import json
import math
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from fedrobust.reporting.filenames import MANIFEST
from fedrobust.reporting.manifest import (
    changes,
    conditions,
    git_state,
    note_resumption,
    package_versions,
    write_manifest,
)

DATA = {
    "digest": "ab" * 32,
    "train": 70,
    "validation": 10,
    "test": 20,
    "root": 8,
    "proxy": 30,
    "skipped": {"broken.jpg": "it is no JPEG"},
}
MODEL = {"weights": [{"model": "resnet18", "source": "timm's hub"}], "frozen_sha256": "cd"}


def written(folder: Path, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "config": {"rounds": 2},
        "seed": 7,
        "facts": {"data": DATA, "model": MODEL},
        "device": "cpu (1 thread)",
    }
    returned = write_manifest(
        folder, command_line=["/home/someone/simulate.py", "rounds=2"], **(values | changes)
    )
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    assert returned == manifest
    return manifest


def test_it_holds_what_is_needed_to_repeat_the_run(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    assert manifest["config"] == {"rounds": 2}
    assert (manifest["seed"], manifest["device"], manifest["data"]) == (7, "cpu (1 thread)", DATA)
    assert manifest["model"] == MODEL
    assert manifest["command_line"] == ["simulate.py", "rounds=2"]
    assert (
        manifest["packages"]["torch"] == torch.__version__.split("+")[0]
        or manifest["packages"]["torch"] == torch.__version__
    )
    assert manifest["processor"]
    assert manifest["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert manifest["torch_threads"] == torch.get_num_threads()
    age = datetime.now(UTC) - datetime.fromisoformat(manifest["started_utc"])
    assert timedelta(0) <= age < timedelta(minutes=1)


def test_no_environment_and_no_path_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "s3cr3t-value")
    written(tmp_path)
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    assert "s3cr3t" not in text
    assert "/home/someone" not in text


@pytest.mark.parametrize("value", [math.nan, Path("x"), {1, 2}])
def test_what_json_cannot_hold_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ValueError, match=r"not (JSON|serializable)|JSON"):
        written(tmp_path, config={"bad": value})
    assert list(tmp_path.iterdir()) == []


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_git_commit_and_dirty_flag(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    assert git_state(package) is None  # no checkout
    git(tmp_path, "init", "-q")
    assert git_state(package) is None  # a foreign checkout that does not track the package
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-q", "-m", "x")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(package) == {"commit": commit, "dirty": False}
    (package / "__init__.py").write_text("1\n", encoding="utf-8")
    assert git_state(package) == {"commit": commit, "dirty": True}


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__).parent) is None


def test_a_package_that_is_missing_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedrobust.reporting.manifest.PACKAGES", ("torch", "no-such-package"))
    versions = package_versions()
    assert versions["no-such-package"] is None
    assert versions["torch"]


def test_what_has_changed_since_is_named() -> None:
    then = {
        **conditions("cpu (1 thread)", 1),
        "packages": {**package_versions(), "torch": "2.6.0"},
        "torch_threads": 3,
    }
    now = conditions("cpu (2 threads)", 2)
    torch_now = now["packages"]["torch"]
    assert changes(now, now) == []
    assert changes(then, now) == [
        f"torch 2.6.0 -> {torch_now}",
        f"OMP_NUM_THREADS 3 -> {torch.get_num_threads()}",
        "engine.threads 1 -> 2",
    ]
    assert changes({**now, "program": "another"}, now) == ["the program's sources"]
    assert changes(
        {**now, "device": "cuda (H200)", "cpu_capability": "x", "processor": "y"}, now
    ) == [
        "device cuda (H200) -> cpu",
        f"processor y -> {now['processor']}",
        f"instruction set x -> {now['cpu_capability']}",
    ]


def test_resumptions_are_noted_one_after_the_other(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    note_resumption(tmp_path, manifest, "inline", [])
    once = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    returned = note_resumption(tmp_path, once, "ray", ["torch 1 -> 2"])
    twice = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert returned == twice
    assert [(one["engine"], one["changed"]) for one in twice.pop("resumed")] == [
        ("inline", []),
        ("ray", ["torch 1 -> 2"]),
    ]
    assert twice == manifest
