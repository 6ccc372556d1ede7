"""The example plug-in of the documentation, put on Python's path for one test."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrobust.utils import plugins, program

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "mylab"


def forget(name: str) -> None:
    """As if the package had never been imported or looked at."""
    for module in [one for one in sys.modules if one.partition(".")[0] == name]:
        del sys.modules[module]
    importlib.invalidate_caches()
    plugins.sources_digest.cache_clear()
    program.program_digest.cache_clear()


@contextmanager
def importable(folder: Path, name: str = "mylab") -> Iterator[Path]:
    """Inside, a copy of the example lies in this folder, can be imported under this name, and can
    be edited. Yields the package's folder."""
    package = folder / name
    shutil.copytree(EXAMPLE / "mylab", package)
    for path in package.rglob("*.yaml"):
        path.write_text(path.read_text().replace("mylab.", f"{name}."))
    sys.path.insert(0, str(folder))
    forget(name)
    try:
        yield package
    finally:
        sys.path.remove(str(folder))
        forget(name)
