"""Wheels built from the checkout, without a network."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHIPPED = ("fedrobust", "strategies", "clients", "configs")
STORED = Path("docs", "results")  # of the published tables, which a wheel has as fedrobust/results
TABLE_FILES = ("*/*.yaml", "*/*.csv", "*/*.csv.gz")


def copy_project(target: Path, *more: str) -> None:
    """What a wheel is built from, without what git ignores; more: further folders and files."""
    target.mkdir()
    for name in (*SHIPPED, "pyproject.toml", "README.md", ".gitignore", *more):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    if not (target / STORED).exists():
        shutil.copytree(ROOT / STORED, target / STORED)


def call(*command: str, folder: Path) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def build_wheel(project: Path, out: Path) -> Path:
    """The wheel of a project, in an empty folder."""
    words = ("-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), ".")
    call(sys.executable, *words, folder=project)
    [wheel] = out.glob("*.whl")
    return wheel


def unpack(wheel: Path, site: Path) -> None:
    """What an installer does with a wheel of Python files."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
