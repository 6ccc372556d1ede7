"""Names of what lies in the output folder of a run; light, since command lines look for them before
anything heavy is imported."""

from __future__ import annotations

MANIFEST = "manifest.json"
REPORT = "report.json"
PAGE = "report.html"
MODEL = "model.safetensors"  # of the last round
BEST_MODEL = "best.safetensors"  # of the best round, where one is wanted
RUN_LOG = "run.log"
CHECKPOINTS = "checkpoints"  # a folder, which lasts as long as the run
TRACKER = "tracker.json"  # what a tracker has got of the run
