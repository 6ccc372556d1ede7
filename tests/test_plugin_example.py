"""The example repository of docs/plugins.md: its page shows its files, and its wheel beside ours
runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedrobust.reporting.report import read_report
from tests.helpers.plugins import EXAMPLE
from tests.helpers.wheels import ROOT, build_wheel, copy_project, unpack

SMALL = (
    *("data.num_images=300", "rounds=1", "evaluation.twin=false"),
    "evaluation.bootstrap_samples=0",
)
BLOCK = re.compile(r"`([\w/]+\.(?:py|yaml|toml))`:\n\n```\w+\n(.*?)```", re.DOTALL)


def test_the_page_shows_the_files_as_they_are() -> None:
    shown = dict(BLOCK.findall((ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")))
    for name, text in shown.items():
        assert (EXAMPLE / name).read_text(encoding="utf-8") == text, name
    code = [path for path in EXAMPLE.rglob("*.*") if path.suffix in (".py", ".yaml", ".toml")]
    here = {path.relative_to(EXAMPLE).as_posix() for path in code}
    assert here == {*shown, "mylab/__init__.py"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the contents of both wheels."""
    folder = tmp_path_factory.mktemp("wheels")
    copy_project(folder / "fedrobust")
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    shutil.copytree(EXAMPLE, folder / "mylab", ignore=ignored)
    for name in ("fedrobust", "mylab"):
        unpack(build_wheel(folder / name, folder / f"dist-{name}"), folder / "site")
    return folder / "site"


def python(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Python with the wheels alone, in an empty folder."""
    kept = {key: one for key, one in os.environ.items() if not key.startswith("PYTEST_")}
    environment = {**kept, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_a_wheel_of_it_runs_beside_ours(site: Path, tmp_path: Path) -> None:
    words = ("plugins=[mylab]", "strategy=mylab_rule", "experiment=smoke", "hydra.run.dir=out")
    attacked = ("contamination=mylab_darker", "poisoned=1")
    done = python(site, tmp_path, "-m", "fedrobust.simulate", *words, *attacked, *SMALL)
    assert done.returncode == 0, done.stderr
    report = read_report(tmp_path / "out")
    assert (report.strategy, report.plugins) == ("mylab_rule", {"mylab": "0.1.0"})
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["config"]["plugins"] == ["mylab"]
    assert manifest["plugins"]["mylab"]["version"] == "0.1.0"
    assert re.fullmatch("[0-9a-f]{64}", manifest["plugins"]["mylab"]["sources"])
    assert "Plug-ins: mylab 0.1.0." in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_its_own_tests_pass_with_the_wheels_alone(site: Path, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # else one in a folder above counts
    done = python(site, tmp_path, "-m", "pytest", "-p", "no:cacheprovider", "tests")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


@pytest.mark.slow
def test_an_installed_one_needs_no_name_and_a_function_no_yaml(site: Path, tmp_path: Path) -> None:
    helped = python(site, tmp_path, "-m", "fedrobust.simulate", "strategy=mylab_rule", "--help")
    assert "much longer updates are" in helped.stdout, helped.stderr
    code = """
import sys, fedrobust
from mylab.rules import mylab_rule
run = fedrobust.run(*sys.argv[1:], "experiment=smoke", folder="out", strategy=mylab_rule)
print(run.report.strategy, run.report.plugins, run.manifest["config"]["strategy"])
"""
    done = python(site, tmp_path, "-c", code, *SMALL)
    assert done.returncode == 0, done.stderr
    told = "mylab_rule {'mylab': '0.1.0'} {'_target_': 'mylab.rules.mylab_rule', 'longest': 1.5}"
    assert told in done.stdout
