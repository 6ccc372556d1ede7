"""Settings are checked by the signature of what takes them, and described in one line or a
table."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from fedrobust.errors import ConfigError
from fedrobust.utils.settings_table import Setting, describe_type, list_settings
from fedrobust.utils.validation import (
    Built,
    Count,
    Decay,
    Given,
    OneOf,
    Positive,
    PositiveCount,
    Share,
    Words,
    check,
    check_settings,
    flatten_groups,
)


class Tool:
    """Product of another factory."""


Built_tool = Annotated[Tool, Built("a tool with a _target_")] | None


@check_settings("part")
@dataclass(frozen=True, slots=True)
class Heat:
    """Temperature range.

    Attributes:
        heat: whether there is any.
        kelvin: the temperature.
    """

    heat: bool = True
    kelvin: Positive = 2.0


@flatten_groups
@check_settings("part")
def factory(  # noqa: D417  # what is not described, too
    f: Count,
    mode: Literal["slow", "fast"] = "fast",
    *,
    heat: Heat = Heat(),
    shares: Annotated[Sequence[Share], Field(min_length=1)] = (0.5,),
    name: int | str | None = None,
    colour: Annotated[Sequence[Share], Words("three numbers in [0, 1]")] = (1, 1, 1),
    tool: Built_tool = None,
    backend: Annotated[str, OneOf(("a", "b"))] = "a",
    num_classes: Annotated[int | None, Given()] = None,
) -> dict[str, Any]:
    """Anything.

    Args:
        f: how many, among
            all.
        mode: how it goes: fast or not.

    Returns:
        What it was called with.
    """
    return {"f": f, "heat": heat, "shares": shares, "num_classes": num_classes, "name": name}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"f": -1}, "part.f=-1: must be at least 0"),
        ({"f": True}, "part.f=True: must be a whole number"),
        ({"f": 2.0}, "part.f=2.0: must be a whole number"),
        ({"f": "2"}, "part.f=2: must be a whole number"),
        ({"f": None}, "part.f=None: must be a whole number"),
        ({"f": 2**64}, "part.f: must be a number of at most 64 bits"),
        ({"kelvin": 0}, "part.kelvin=0: must be greater than 0"),
        ({"kelvin": math.nan}, "part.kelvin=nan: must be a number"),
        ({"kelvin": math.inf}, "part.kelvin=inf: must be a number"),
        ({"kelvin": False}, "part.kelvin=False: must be a number"),
        ({"heat": 1}, "part.heat=1: must be true or false"),
        ({"mode": "quick"}, "part.mode=quick: must be one of slow, fast"),
        ({"mode": [1]}, "part.mode=[1]: must be one of slow, fast"),
        ({"shares": "0.5"}, "part.shares=0.5: must be a list"),
        ({"shares": []}, "part.shares=[]: must be a list of at least 1"),
        ({"shares": [0.1, 1.5]}, "part.shares=1.5: must be at most 1"),
        ({"shares": [0.1, True, 7]}, "part.shares=True: must be a number"),
        ({"shares": [2**70]}, "part.shares: must be a number of at most 64 bits"),
        ({"name": 2.5}, "part.name=2.5: must be a whole number or text"),
        ({"colour": [1, 2, 3]}, "part.colour=[1, 2, 3]: must be three numbers in [0, 1]"),
        ({"tool": 3}, "part.tool=3: must be null or a tool with a _target_"),
        ({"backend": "c"}, "part.backend=c: must be one of a, b"),
        ({"backend": ["a"]}, "part.backend=['a']: must be one of a, b"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        factory(**{"f": 1, **given})
    assert str(caught.value) == line


def test_what_fits_is_handed_on_as_it_came() -> None:
    shares = [1, 0.5]
    made = factory(2, "slow", shares=shares, kelvin=3, tool=Tool(), num_classes=2**70)
    assert made["shares"] is shares
    assert type(made["heat"].kelvin) is int
    assert made["num_classes"] == 2**70
    assert made["heat"] == Heat(True, 3)
    assert factory(2, heat=Heat(kelvin=4))["heat"] == Heat(kelvin=4)
    assert factory(0, name="mel")["name"] == "mel"


def test_settings_that_nobody_knows_or_that_are_missing_are_errors_of_the_caller() -> None:
    with pytest.raises(TypeError, match="unknown"):
        factory(1, unknown=2)
    with pytest.raises(TypeError, match="'f'"):
        factory()


def test_a_class_is_checked_as_a_function_is() -> None:
    with pytest.raises(ConfigError, match=r"^part\.kelvin=-1: must be greater than 0$"):
        Heat(kelvin=-1)
    assert Heat(False, 1) == Heat(heat=False, kelvin=1)


def test_one_value_is_checked_alone() -> None:
    assert check("wait", 3, Annotated[float, Field(ge=0)]) == 3
    with pytest.raises(ConfigError, match=r"^wait=-1: must be at least 0$"):
        check("wait", -1, Annotated[float, Field(ge=0)])


def test_it_stays_a_plain_function_with_the_keys_of_its_groups() -> None:
    assert inspect.isfunction(factory)
    assert factory.__module__ == __name__
    assert factory.__annotations__["return"] == "dict[str, Any]"
    assert list(inspect.signature(factory).parameters)[:5] == [
        "f",
        "mode",
        "heat",
        "kelvin",
        "shares",
    ]


def test_the_table_has_type_range_default_and_description() -> None:
    table = list_settings(factory)
    assert table[:4] == [
        Setting("f", "whole number, at least 0", None, "how many, among all."),
        Setting("mode", "one of slow, fast", "fast", "how it goes: fast or not."),
        Setting("heat", "true or false", "true", "whether there is any."),
        Setting("kelvin", "number, greater than 0", "2.0", "the temperature."),
    ]
    kinds = {row.name: row.kind for row in table[4:]}
    assert kinds == {
        "shares": "list of number, at least 0, at most 1",
        "name": "whole number or text or null",
        "colour": "three numbers in [0, 1]",
        "tool": "a tool with a _target_ or null",
        "backend": "one of a, b",
    }


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (PositiveCount | None, "whole number, at least 1, or null"),
        (Decay, "number, at least 0, less than 1"),
        (Literal["a", "b"] | None, "one of a, b, or null"),
        (Sequence[str], "list of text"),
        (dict[str, Any], "group of settings"),
    ],
)
def test_types_in_words(kind: Any, words: str) -> None:
    assert describe_type(kind) == words


@check_settings("part")
@dataclass(frozen=True, slots=True)
class Tools:
    names: Sequence[str] = field(default_factory=lambda: ["saw"])


@dataclass(frozen=True, slots=True)
class Made:
    """Product of another factory, a dataclass."""


@flatten_groups
@check_settings("part")
def pack(*, tools: Tools) -> Sequence[str]:
    return tools.names


@check_settings("part")
def wrap(made: Annotated[Made, Built("a group with a _target_")]) -> Made:
    return made


def test_an_object_of_another_factory_is_told_by_its_class() -> None:
    made = Made()
    assert wrap(made) is made
    with pytest.raises(ConfigError, match=r"^part\.made=3: must be a group with a _target_$"):
        wrap(3)  # type: ignore[arg-type]


def test_a_flat_signature_shows_what_default_factories_make() -> None:
    assert inspect.signature(pack).parameters["names"].default == ["saw"]
    assert pack() == ["saw"]
