"""Texts that others wrote: what may be shown and stored of them, and their lines.

Every text of a client goes through `escape_text` where it arrives, so that screen, rounds.jsonl,
clients.csv and the page get the same harmless words.
"""

from __future__ import annotations

LINE = 300  # characters of a reason
LINES = 20_000  # characters of a traceback
CUT = "…"  # stands where something was cut off


def escape_text(text: str, length: int = LINE, *, multiline: bool = False) -> str:
    """A foreign text as characters that move no cursor, turn no line around and end none.

    Whatever Python calls not printable is written as its escape, so that U+2028 becomes a backslash
    and u2028: C0 and C1 controls, bidirectional and invisible signs, separators of lines and
    paragraphs, lone surrogates, unassigned code points, every blank but the common one. Applying it
    twice changes nothing.

    Args:
        text: what somebody else wrote.
        length: characters of the result, at least 1; what is cut off is marked by `CUT`.
        multiline: keep line feeds and tabs. A long text then loses its beginning, since a
            traceback ends with the reason; otherwise its end.

    Returns:
        The text, of at most `length` characters.
    """
    kept = "\n\t" if multiline else ""
    # one more than wanted tells whether something was cut off
    part = text[-length - 1 :] if multiline else text[: length + 1]
    escaped = (
        part
        if part.isprintable()  # at once, as the pictures in the page
        else "".join(sign if sign.isprintable() or sign in kept else _escape(sign) for sign in part)
    )
    if len(escaped) <= length:
        return escaped
    rest = length - len(CUT)
    return CUT + escaped[len(escaped) - rest :] if multiline else escaped[:rest] + CUT


def _escape(sign: str) -> str:
    code = ord(sign)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def split_lines(text: str) -> list[str]:
    """The lines of a text, which end at line feeds and nowhere else; a last empty one is none.

    `str.splitlines` also splits at U+0085, U+2028 and others, which may stand inside a line of
    JSON.
    """
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines
