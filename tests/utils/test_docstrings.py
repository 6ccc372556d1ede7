"""Docstrings in parts."""

from __future__ import annotations

import pytest

from fedrobust.utils.docstrings import first_sentence, split_docstring

TEXT = """The mean of
    what is left. Ties: first.

    More: about it.

    Args:
        f: attackers.

            to tolerate
        g: others

    Needs:
        root images;
        at least 2f + 1 clients

    Reference:
        Yin et al., ICML 2018.
    """


def test_summary_details_and_sections_are_told_apart() -> None:
    found = split_docstring(TEXT)
    assert found.summary == "The mean of what is left. Ties: first."
    assert found.details == ("More: about it.",)
    assert list(found.sections) == ["Args", "Needs", "Reference"]
    assert found.section("Needs") == "root images; at least 2f + 1 clients"
    assert found.section("Reference") == "Yin et al., ICML 2018."
    assert found.section("Raises") == ""


def test_no_docstring_has_no_parts() -> None:
    found = split_docstring("")
    assert (found.summary, found.details, dict(found.sections)) == ("", (), {})


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One thing. Another thing.", "One thing."),
        ("One of .9, .8 or 1.5 things", "One of .9, .8 or 1.5 things."),
        ("What holds:\n  the rest", "What holds: the rest."),
        ("Ends with a colon:", "Ends with a colon."),
        ("", ""),
    ],
)
def test_first_sentences(text: str, first: str) -> None:
    assert first_sentence(text) == first
