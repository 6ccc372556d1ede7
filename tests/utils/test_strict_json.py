"""JSON of others: what is read is what the standard library reads, what is odd ends in one line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.errors import ConfigError
from fedrobust.utils.strict_json import DEEPEST, LONGEST, read_object


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[1]", "must be a JSON object, not list"),
        ('"a"', "must be a JSON object, not str"),
        ("null", "must be a JSON object, not NoneType"),
        ('{"a": 1, "a": 2}', "names a key twice"),
        ('{"b": {"a": 1, "a": 1}}', "names a key twice"),
        ('{"a": NaN}', "not finite"),
        ('{"a": -Infinity}', "not finite"),
        ('{"a": 1e999}', "not finite"),
        ('{"a": 1' + 30 * "0" + "}", "a whole number of 31 digits"),
        ('{"a": 1' + 9999 * "0" + "}", "a whole number of 10000 digits"),
        ('{"a": ' + DEEPEST * "[" + DEEPEST * "]" + "}", "nested more than 32 deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ('{"a": "' + LONGEST * "x" + '"}', "characters, more than"),
        ('{"a": "line\\nfeed"}', "cannot be printed"),
        ('{"\\ud800": 1}', "cannot be printed"),
        ('{"a": 1} x', "Extra data"),
        ("{'a': 1}", "Expecting property name"),
    ],
)
def test_odd_texts_are_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=r"^experiment: ") as error:
        read_object(text, "experiment")
    assert reason in str(error.value)
    assert str(error.value).isprintable()


printable = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | printable,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(printable, inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=40)
@given(st.dictionaries(printable, values, max_size=4))
def test_ordinary_texts_are_read_as_by_the_standard_library(value: dict) -> None:
    text = json.dumps(value)
    assert read_object(text, "x") == json.loads(text) == value
