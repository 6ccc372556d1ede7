"""The folder of everything that is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The environment variable FEDROBUST_CACHE, else ~/.cache/fedrobust."""
    named = os.environ.get("FEDROBUST_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "fedrobust"
