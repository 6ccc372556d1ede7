"""Names that were misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def nearest(word: str, known: Collection[str]) -> str:
    """The known name that is most like the word, or like which one of its parts is; else ""."""
    parts = {part: name for name in known for part in name.split("_") if len(part) > 3}
    near = difflib.get_close_matches(word, known, n=1)
    near = near or [parts[one] for one in difflib.get_close_matches(word, parts, n=1, cutoff=0.75)]
    return near[0] if near else ""


def did_you_mean(word: str, known: Collection[str]) -> str:
    """ "did you mean X? " with the known name nearest to the word, or nothing."""
    near = nearest(word, known)
    return f"did you mean {near}? " if near else ""
