"""Execute a tutorial: `python docs/tutorials/run.py docs/tutorials/own_images.md [folder]`.

Blocks marked `bash` and `python` run one after the other in one folder (a temporary one unless one
is given), each in a process of its own; `<!-- file: name -->` before a block writes it to that file
instead. The first block that fails ends it with its exit code.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(
    r"(?:<!-- file: (?P<file>\S+) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SECONDS = 900  # a block may take


class Block(NamedTuple):
    """One block of code; file: where it is written to, None where it is executed."""

    language: str
    text: str
    file: str | None


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page that are executed or written, in order."""
    for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if found["file"] or found["language"] in ("bash", "python"):
            yield Block(found["language"], found["text"], found["file"])


def command(block: Block) -> list[str]:
    """What executes a block; `python` in a line of the shell is this interpreter."""
    if block.language == "python":
        return [sys.executable, "-c", block.text]
    text = re.sub(r"^python3? ", f"{sys.executable} ", block.text, flags=re.MULTILINE)
    return ["bash", "-euo", "pipefail", "-c", text]


def execute(page: Path, folder: Path) -> int:
    """Run all blocks of a page in a folder; the exit code of the first that fails, else 0."""
    found = list(blocks(page))
    if not found:
        print(f"{page}: no blocks to execute", file=sys.stderr)
        return 2
    for number, block in enumerate(found, start=1):
        if block.file:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            continue
        start = time.monotonic()
        code = subprocess.run(command(block), cwd=folder, check=False, timeout=SECONDS).returncode
        print(f"{page.name}: block {number} of {len(found)}: {time.monotonic() - start:.1f} s")
        if code:
            print(f"{page.name}: block {number} failed with exit code {code}", file=sys.stderr)
            return code
    return 0


def main() -> int:
    """The command line."""
    if not 2 <= len(sys.argv) <= 3:
        print(__doc__, file=sys.stderr)
        return 2
    page = Path(sys.argv[1])
    if len(sys.argv) == 3:
        return execute(page, Path(sys.argv[2]))
    with tempfile.TemporaryDirectory() as folder:
        return execute(page, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
