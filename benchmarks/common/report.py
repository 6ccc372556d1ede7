"""Reports of the benchmarks: tables on the screen, and a JSON file with the machine and the
versions but no host names or paths."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.common.measure import ROOT

PACKAGES = (
    "fedrobust",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "flwr",
    "ray",
    "byzfl",
    "pfl",
    "scikit-image",
)
OUTPUTS = ("--json", "--png")  # options whose values are files of this machine


class Spread(NamedTuple):
    """The median of some values, and their range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError without values."""
        if not values:
            raise ValueError("a spread needs values")
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 2) -> str:
        """`1.02 [0.98, 1.10]`, or the number alone where there is no range."""
        if self.low == self.high:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A command line with what all benchmarks have."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    made.add_argument(
        "--quick",
        action="store_true",
        help="a run of seconds that shows that everything works; its figures say nothing",
    )
    made.add_argument(
        "--json", type=Path, metavar="FILE", help="write everything that was measured to this file"
    )
    return made


def names(text: str) -> list[str]:
    """`a,b` as a list; for argparse."""
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise argparse.ArgumentTypeError("give one name or more, separated by commas")
    return found


def counts(text: str) -> list[int]:
    """`10,100` as a list of whole numbers above zero; for argparse."""
    return [count(word) for word in names(text)]


def count(text: str) -> int:
    """A whole number above zero; for argparse."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number above zero")
    return int(text)


def refuse(line: str) -> NoReturn:
    """Wrong input: one line, exit code 2."""
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(2)


def check_names(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Exit with code 2 for a name that is not known."""
    for name in given:
        if name not in known:
            refuse(f"{option}={name}: must be of {', '.join(known)}")


def installed_version(package: str) -> str | None:
    """Its version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """The machine and its load before the start, without any name that could identify which one it
    is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory, 1),
        "gpus": _gpus(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().split("\n")
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _gpus() -> list[str]:
    """Asked of the driver's own tool: importing torch here would share its memory with the measured
    processes."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.split("\n") if line.strip()]


def commit() -> str | None:
    """The checkout's commit, with a plus sign where files differ from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def command_line(name: str, words: Sequence[str]) -> str:
    """The command that was given; of files only their names."""
    shown = [
        Path(word).name if before in OUTPUTS else word
        for before, word in zip(["", *words], words, strict=False)
    ]
    return shlex.join(["python", "-m", f"benchmarks.{name}", *shown])


def document(
    name: str, words: Sequence[str], facts: Mapping[str, Any], **parts: Any
) -> dict[str, Any]:
    """The content of a benchmark's JSON file: what was run, where (`machine`, asked before the
    start), and its own parts."""
    return {
        "benchmark": name,
        "command": command_line(name, words),
        "finished_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": facts,
        "versions": {package: installed_version(package) for package in PACKAGES},
        **parts,
    }


def write_json(path: Path, content: Any) -> None:
    """Exit with code 2 where the file cannot be written."""
    try:
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        refuse(f"--json={path}: {error.strerror}")


def check_writable(option: str, path: Path | None) -> None:
    """Before hours of measuring: exit with code 2 where the folder of an output does not exist."""
    if path is not None and not path.resolve().parent.is_dir():
        refuse(f"{option}={path}: there is no such folder")


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
    """A table on the screen, all columns but the first to the right."""
    table = Table(
        title=escape(title),
        caption=escape(note) or None,
        title_justify="left",
        caption_justify="left",
    )
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def say(line: str) -> None:
    """Progress, on the standard error."""
    print(line, file=sys.stderr, flush=True)
