"""Names as people write them: one spelling for comparing, one for showing, and a guess at what was
meant."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from fedrobust.errors import DataError

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
EDGES = re.compile(r"\A[\s\u200b\u2060\ufeff]+|[\s\u200b\u2060\ufeff]+\Z")
MOST, LONGEST = 30, 60  # names in a line, characters of each
# categories of control signs, halves of signs, separators of lines
UNSHOWN = ("Cc", "Cs", "Zl", "Zp")
# signs of text direction, which turn around what stands after them on a screen or page
TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# what a name holds that differs from how it is shown
UNSHOWN_KINDS = "is not UTF-8, or holds a line break, a control sign or a sign of text direction"


def clean_name(text: str) -> str:
    """A name for comparing: composed (Unicode NFC), without blanks and invisible signs at its
    ends."""
    return EDGES.sub("", unicodedata.normalize("NFC", text))


def shown_name(text: str) -> str:
    """A name for a line of text: bytes that are no UTF-8, control signs, line breaks and signs of
    text direction as escapes."""
    return "".join(
        _escape(sign) if sign in TURNING or unicodedata.category(sign) in UNSHOWN else sign
        for sign in text
    )


def shown_list(names: Iterable[str]) -> str:
    """Names for a line of text, however many and long they are; "none" where there are none."""
    there = [shown_name(name) for name in names if name]
    shown = [name if len(name) <= LONGEST else f"{name[:LONGEST]}..." for name in there[:MOST]]
    more = [f"{len(there) - MOST} more"] if len(there) > MOST else []
    return ", ".join([*shown, *more]) or "none"


def _escape(sign: str) -> str:
    # Python keeps a byte of a name that is no UTF-8 as such a half of a sign
    byte = ord(sign) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else ascii(sign)[1:-1]


def expand_home(text: str | Path) -> Path:
    """A path whose "~" is the home folder. What begins with "~" and names no user is a name like
    any other. Raises RuntimeError where there is no home folder for "~" alone."""
    path = Path(text)
    first = path.parts[:1]
    if first == ("~",):
        return path.expanduser()
    return path if path.exists() else Path(os.path.expanduser(path))


def stored_path(text: str | Path) -> Path:
    """A path in the Unicode form in which it exists, where one does; "~" is the home folder. Raises
    DataError for the address of something elsewhere."""
    if ADDRESS.match(str(text)) and not Path(text).exists():
        raise DataError(
            f"{shown_name(str(text))}: is an address, and nothing is fetched; fetch it yourself "
            "and give the path of the file or folder"
        )
    path = expand_home(text)
    forms = (Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))
    return path if path.exists() else next((one for one in forms if one.exists()), path)


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
