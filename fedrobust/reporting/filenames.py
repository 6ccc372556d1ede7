"""Names of what lies in the output folder of a run; light, since command lines look for them before
anything heavy is imported."""

from __future__ import annotations

MANIFEST = "manifest.json"
REPORT = "report.json"
PAGE = "report.html"
CHECKPOINTS = "checkpoints"  # a folder, which lasts as long as the run
TRACKER = "tracker.json"  # what a tracker has got of the run
