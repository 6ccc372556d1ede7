"""Elements of HTML and SVG as text; whatever comes from outside is escaped here."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup, escape

from fedrobust.utils.foreign_text import escape_text

NOTHING: Mapping[str, object] = {}


def harmless(value: object) -> Markup:
    """A value as text of a page: signs that cannot be printed as their escapes, then escaped."""
    if isinstance(value, Markup):
        return value
    text = str(value)
    return escape(escape_text(text, 10 * len(text) + 1, multiline=True))


def element(name: str, attributes: Mapping[str, object] = NOTHING, *children: object) -> Markup:
    """An element with its end tag.

    Args:
        name: of the element; never from outside.
        attributes: by name; None: left out, True: without a value; numbers are rounded to a tenth.
        children: markup as it is, anything else as text.

    Returns:
        The element.
    """
    start = "".join(
        f" {key}" if value is True else f' {key}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inner = "".join(harmless(child) for child in children)
    return Markup(f"<{name}{start}>{inner}</{name}>")


def join(parts: list[Markup]) -> Markup:
    """Several pieces of markup as one."""
    return Markup("").join(parts)


def _value(value: object) -> Markup:
    if isinstance(value, float):
        return escape(f"{round(value, 1) + 0.0:.1f}".removesuffix(".0"))
    return harmless(value)


def shorten(text: str, signs: int) -> str:
    """A text of at most so many signs, at least 3; what is cut out is its middle, since names often
    differ at their ends."""
    if len(text) <= signs:
        return text
    tail = (signs - 1) * 2 // 5
    return f"{text[: signs - 1 - tail]}…{text[len(text) - tail :]}"
