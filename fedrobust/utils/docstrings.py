"""Google docstrings in parts: a summary, and sections by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass

HEAD = re.compile(r"^([A-Z][a-z]+):$")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z(`])")


@dataclass(frozen=True, slots=True)
class Docstring:
    """A docstring's parts.

    Attributes:
        summary: its first paragraph, on one line.
        details: the paragraphs between summary and sections, each on one line.
        sections: {"Reference": its lines}, without their indentation.
    """

    summary: str
    details: tuple[str, ...]
    sections: Mapping[str, tuple[str, ...]]

    def section(self, name: str) -> str:
        """A section as one line; "" where there is none."""
        return " ".join(line for line in self.sections.get(name, ()) if line)


def split_docstring(text: str) -> Docstring:
    """The parts of a docstring, as it stands in the source or cleaned."""
    lead: list[str] = []
    sections: dict[str, list[str]] = {}
    name = ""
    for line in inspect.cleandoc(text).split("\n"):
        if head := HEAD.match(line):
            name = head[1]
            sections[name] = []
        elif name and (not line or line.startswith(" ")):
            sections[name].append(line.strip())
        else:
            name = ""
            lead.append(line)
    paragraphs = [" ".join(part.split()) for part in "\n".join(lead).split("\n\n") if part.strip()]
    return Docstring(
        paragraphs[0] if paragraphs else "",
        tuple(paragraphs[1:]),
        {key: tuple(lines) for key, lines in sections.items()},
    )


def first_sentence(text: str) -> str:
    """The first sentence of a text, on one line, with its full stop."""
    found = SENTENCE.split(" ".join(text.split()), maxsplit=1)[0].rstrip(" :;,")
    return found if not found or found[-1] in ".!?" else f"{found}."
