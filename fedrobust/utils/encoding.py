"""Text on a screen or in a pipe whose encoding lacks some of its signs, such as ASCII."""

from __future__ import annotations

import codecs
import io
import sys

PLAIN = {"→": "->", "·": "-", "…": "...", "²": "^2", "±": "+-"}
HANDLER = "fedrobust.plain"


def show_any_text() -> None:
    """Let standard output and standard error take any text: a sign that their encoding lacks is
    written in plain letters ("->" for an arrow) or as its number, and ends nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    found = [PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in signs]
    return "".join(found), error.end


codecs.register_error(HANDLER, _plain)
