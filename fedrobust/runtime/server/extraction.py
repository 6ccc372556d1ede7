"""Stages of a run that say how far the features of its images are."""

from __future__ import annotations

import time

from fedrobust.experiment.features import Extraction, OnExtraction
from fedrobust.types import Observer

PAUSE_SECONDS = 5.0  # between two stages


def extraction_stages(observer: Observer, run: str) -> OnExtraction:
    """What turns extractions into stages of the run: one as soon as one begins, others after some
    seconds each, and where there were such the last."""
    said, shown = 0.0, False

    def tell(found: Extraction) -> None:
        nonlocal said, shown
        now = time.monotonic()
        begins, ends = found.done == 0, found.done == found.total
        if begins or now - said >= PAUSE_SECONDS or (ends and shown):
            observer.stage(run, describe_extraction(found))
            said, shown = now, not begins

    return tell


def describe_extraction(found: Extraction) -> str:
    """In one line."""
    whole = f"{found.total:,} {found.what} (data: {found.data}) through {found.network}"
    share = f": {found.done:,} done ({100 * found.done // found.total} %)" if found.done else ""
    return f"features of {whole}{share}"
