"""What leaves the checkout: the wheel with its four packages, and Flower's app bundle without anything that is ours alone."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("fedrobust", "strategies", "clients", "configs")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project without what git ignores."""
    target = tmp_path_factory.mktemp("project") / "fedrobust"
    target.mkdir()
    for name in (*SHIPPED, "pyproject.toml", "README.md", ".gitignore", "tests", "docs"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    (target / "outputs").mkdir()
    (target / "outputs" / "report.json").write_text("{}")
    return target


def build(*command: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_the_four_packages_and_every_yaml(copy: Path, tmp_path: Path) -> None:
    build(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), ".", folder=copy)
    [wheel] = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == set(SHIPPED)
    ours = {path.relative_to(copy).as_posix() for top in SHIPPED for path in (copy / top).rglob("*") if path.is_file()}
    assert names == ours


def test_the_bundle_holds_the_app_and_no_outputs(copy: Path) -> None:
    build(str(Path(sys.executable).parent / "flwr"), "build", folder=copy)
    [bundle] = copy.glob("*.fab")
    names = set(zipfile.ZipFile(bundle).namelist())
    assert {"pyproject.toml", "configs/config.yaml", "configs/strategy/etf_dml.yaml", "clients/app.py", "strategies/app.py"} <= names
    assert not [name for name in names if name.startswith(("outputs/", ".venv/", "tests/", "docs/"))]
    assert bundle.stat().st_size < 10 * 2**20
