"""Nested values on their way to a file and back."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.utils import nested

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
TENSORS = (
    st.lists(st.floats(width=32), max_size=3).map(torch.tensor)
    | st.just(torch.tensor(7))
    | st.just(torch.zeros(2, 0, dtype=torch.bool))
)
VALUES = st.recursive(
    SCALARS | st.binary(max_size=4) | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.text(max_size=3)
            | st.integers()
            | st.sampled_from(["!dict", "!tensor", "!", None, True]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


def there_and_back(value: Any) -> Any:
    plain, tensors = nested.flatten(value)
    return nested.unflatten(json.loads(json.dumps(plain)), tensors)


def same(one: Any, two: Any) -> bool:
    """Equal in value and type, to the bit."""
    if type(one) is not type(two):
        return False
    if isinstance(one, torch.Tensor):
        return (
            one.dtype == two.dtype
            and one.shape == two.shape
            and torch.equal(one.isnan(), two.isnan())
            and one.numpy().tobytes() == two.numpy().tobytes()
        )
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(two)) or (
            one == two and math.copysign(1, one) == math.copysign(1, two)
        )
    if isinstance(one, dict):
        return (
            list(one) == list(two)
            and all(type(a) is type(b) for a, b in zip(one, two, strict=True))
            and all(same(one[key], two[key]) for key in one)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    return bool(one == two)


@given(VALUES)
@settings(max_examples=40)
def test_every_value_comes_back_to_the_bit(value: Any) -> None:
    assert same(there_and_back(value), value)


def test_the_kinds_of_memory_that_rules_and_clients_have() -> None:
    momentum = torch.randn(3, dtype=torch.float64)
    value = {
        "suspicion": {0: 0.5, 7: math.inf},
        "aggregation": {},
        "momentum": momentum,
        "seen": [(1, "a"), b"\x00"],
        "rate": -0.0,
    }
    plain, tensors = nested.flatten(value)
    assert plain["suspicion"] == {"!dict": [[0, 0.5], [7, math.inf]]}
    assert (plain["aggregation"], plain["momentum"]) == ({}, {"!tensor": 0, "device": "cpu"})
    assert tensors[0].data_ptr() == momentum.data_ptr()  # no copy
    assert same(there_and_back(value), value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [1, {2}]}, r"\['a'\]\[1\] is of type set"),
        ({1: {"b": object()}}, r"\[1\]\['b'\] is of type object"),
        ({(1, 2): 3}, "has a key of type tuple"),
        (3 + 4j, "the value is of type complex"),
    ],
)
def test_what_cannot_be_kept_is_named(value: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        nested.flatten(value)
