"""Pages of results from stored values: `python docs/generate_results.py [table ...]` writes them,
with `--check` it only says which pages differ (exit code 1), and with `--store <folder>` it first
stores what the comparison in that folder gave.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fedrobust.studies.reproduction.page import TEMPLATE, page_path, render_page
from fedrobust.studies.reproduction.store import store_results
from fedrobust.studies.reproduction.tables import read_table, table_names
from fedrobust.utils.cli import run_command
from fedrobust.utils.files import write_text


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", nargs="*", help="left out: all of them")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--store", type=Path, metavar="FOLDER", help="of a finished comparison")
    asked = parser.parse_args()
    if asked.store is not None and len(asked.table) != 1:
        parser.error("--store needs the name of one table")
    stale: list[Path] = []
    code = run_command(lambda: stale.extend(_generate(asked)))
    for path in stale:
        print(f"{path.name}: differs from what the stored values give", file=sys.stderr)
    return code or int(bool(stale))


def _generate(asked: argparse.Namespace) -> list[Path]:
    """Store and write what is asked for; the pages that differ where nothing is written."""
    stale = []
    for name in asked.table or table_names():
        table = read_table(name)
        if asked.store is not None:
            print(*store_results(table, asked.store), sep="\n")
            table = read_table(name)
        if not (table.folder / TEMPLATE).exists():
            continue
        path, text = page_path(table), render_page(table)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if asked.check:
            stale.append(path)
        else:
            print(write_text(path, text))
    return stale


if __name__ == "__main__":
    sys.exit(main())
