"""Packages built from the checkout: the wheel with its one package, and Flower's app bundle without
anything that is ours alone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.wheels import (
    SHIPPED,
    STORED,
    TABLE_FILES,
    build_wheel,
    call,
    copy_project,
    unpack,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project without what git ignores."""
    target = tmp_path_factory.mktemp("project") / "fedrobust"
    copy_project(target, "tests", "docs")
    (target / "outputs").mkdir()
    (target / "outputs" / "report.json").write_text("{}")
    return target


@pytest.fixture(scope="module")
def wheel(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(copy, tmp_path_factory.mktemp("dist"))


def test_the_wheel_owns_one_name_and_holds_every_module_and_yaml(copy: Path, wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"fedrobust"}
    ours = {
        path.relative_to(copy).as_posix()
        for top in SHIPPED
        for path in (copy / top).rglob("*")
        if path.is_file()
    }
    tables = {
        path.relative_to(copy / "docs").as_posix()
        for pattern in TABLE_FILES
        for path in (copy / STORED).glob(pattern)
    }
    assert "results/leaderboard/table.yaml" in tables
    assert names == {
        name if name.startswith("fedrobust/") else f"fedrobust/{name}" for name in ours | tables
    }


def test_the_wheel_knows_the_published_tables(wheel: Path, tmp_path: Path) -> None:
    unpack(wheel, tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-m", "fedrobust", "reproduce"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "fedrobust reproduce leaderboard data.root=" in done.stdout


def test_a_run_starts_beside_folders_of_the_same_names(
    copy: Path, wheel: Path, tmp_path: Path
) -> None:
    """A run in a folder of the usual Hydra template: neither a wheel nor a checkout takes its
    configs for ours."""
    unpack(wheel, tmp_path / "site")
    for name in SHIPPED[1:]:
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "__init__.py").write_text("raise RuntimeError('not ours')")
    for place in (tmp_path / "site", copy):
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'mine'}{os.pathsep}{place}"}
        code = (
            "import fedrobust; assert "
            f"fedrobust.__file__.startswith({str(place)!r}), fedrobust.__file__"
        )
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path / "mine",
            env=environment,
            timeout=60,
            check=True,
        )
        command = [sys.executable, "-m", "fedrobust.simulate", "strategy=etf_dml", "--cfg", "job"]
        done = subprocess.run(
            command,
            cwd=tmp_path / "mine",
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "_target_: fedrobust.strategies.etf_dml.etf_dml" in done.stdout


def test_the_bundle_holds_the_app_and_no_outputs(copy: Path) -> None:
    call(str(Path(sys.executable).parent / "flwr"), "build", folder=copy)
    [bundle] = copy.glob("*.fab")
    names = set(zipfile.ZipFile(bundle).namelist())
    assert {
        "pyproject.toml",
        "configs/config.yaml",
        "configs/strategy/etf_dml.yaml",
        "fedrobust/runtime/client/handlers.py",
        "strategies/app.py",
    } <= names
    assert not [
        name for name in names if name.startswith(("outputs/", ".venv/", "tests/", "docs/"))
    ]
    assert bundle.stat().st_size < 10 * 2**20
