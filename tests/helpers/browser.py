"""A headless Chromium for the tests of pages; they are skipped where none is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# no network at all: every name is unknown
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
    "--virtual-time-budget=10000",
    "--hide-scrollbars",
)
# loads the page in frames of several widths, has each tried, and writes what was found as text
HARNESS = """<!DOCTYPE html><meta charset="utf-8"><pre id="found"></pre><script>
const widths = %(widths)s, page = %(page)s, found = {};
const done = () => {
  if (Object.keys(found).length === widths.length) {
    document.getElementById("found").textContent = JSON.stringify(found);
  }
};
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.onload = () => {
    const win = frame.contentWindow, doc = frame.contentDocument, root = doc.documentElement;
    const probe = %(probe)s;
    found[width] = {
      "overflow": root.scrollWidth - width,
      "background": win.getComputedStyle(doc.body).backgroundColor,
      "requests": win.performance.getEntriesByType("resource").map((one) => one.name),
      "probe": probe(doc, win),
    };
    done();
  };
  frame.src = page;
  document.body.append(frame);
}
</script>"""


def chromium() -> str:
    """The browser's program; skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser is installed ({', '.join(NAMES)})")
    return found


def start(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The browser with a profile of its own."""
    command = [chromium(), *OPTIONS, f"--user-data-dir={folder / 'profile'}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)


def probe_page(
    page: Path, folder: Path, probe: str = "() => null", *, dark: bool = False
) -> dict[str, Any]:
    """What a browser finds in a page at 390 and 1280 pixels, by width: how far it overflows, its
    background, what it requested, what the probe returned.

    Args:
        page: to be opened.
        folder: for the browser's own files.
        probe: a function of JavaScript of the page's document and window.
        dark: whether the reader prefers dark pages.

    Raises:
        AssertionError: the page logged an error or a refusal.
    """
    harness = folder / "harness.html"
    parts = {"widths": "[390, 1280]", "page": json.dumps(page.as_uri()), "probe": probe}
    harness.write_text(HARNESS % parts, encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    done = start(folder, scheme, "--window-size=1400,1000", "--dump-dom", harness.as_uri())
    logged = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert logged == []
    text = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text is not None, done.stdout[-2000:]
    found: dict[str, Any] = json.loads(unescape(text[1]))
    return found
