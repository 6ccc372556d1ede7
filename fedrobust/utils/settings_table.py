"""Tables of settings for `--help` and the reference, made from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, get_args, get_origin

from fedrobust.utils.validation import (
    Words,
    allowed_values,
    alternatives,
    format_bound,
    is_settings_class,
    marks,
    setting_types,
)

BASES = {bool: "true or false", int: "whole number", float: "number", str: "text"}
BOUNDS = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}
SECTION = re.compile(r"^(Args|Attributes):$")
ENTRY = re.compile(r"^    (\w+): (.*)$")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting in words.

    Attributes:
        name: its key in the group, e.g. "f".
        kind: type and range, e.g. "whole number, at least 0".
        default: as in a configuration, e.g. "null"; None where it must be given.
        description: the line of the docstring; "" where there is none.
    """

    name: str
    kind: str
    default: str | None
    description: str


def list_settings(factory: Callable[..., Any]) -> list[Setting]:
    """The settings of a factory or settings class, in the order of its signature.

    Args:
        factory: a function under `check_settings` (and `flatten_groups`), or a class under it.

    Returns:
        One entry for each parameter that a configuration can set.
    """
    parts = [factory, *getattr(factory, "__groups__", {}).values()]
    kinds = {name: kind for part in parts for name, kind in setting_types(part).items()}
    told = {name: text for part in parts for name, text in list_descriptions(part).items()}
    return [
        row
        for name, parameter in inspect.signature(factory).parameters.items()
        if name in kinds
        for row in _rows(parameter, kinds[name], told.get(name, ""))
    ]


def _rows(parameter: inspect.Parameter, kind: Any, told: str) -> Iterator[Setting]:
    """One, or those of a group inside the group, as `field.key`."""
    if not is_settings_class(kind):
        yield Setting(parameter.name, describe_type(kind), _default(parameter), told)
        return
    for row in list_settings(kind):
        yield replace(row, name=f"{parameter.name}.{row.name}")


def list_descriptions(source: Any) -> dict[str, str]:
    """Description of each name in the section `Args:` (or `Attributes:`) of a docstring, on one
    line each; of a class those of its bases, too."""
    found: dict[str, str] = {}
    for base in source.__bases__ if inspect.isclass(source) else ():
        found |= list_descriptions(base)
    name = None
    for line in _section(inspect.cleandoc(source.__doc__ or "")):
        entry = ENTRY.match(line)
        if entry:
            name = entry[1]
            found[name] = entry[2].strip()
        elif name is not None and line.strip():
            found[name] += " " + line.strip()
    return found


def _section(text: str) -> Iterator[str]:
    lines = iter(text.split("\n"))
    if not any(SECTION.match(line) for line in lines):
        return
    for line in lines:
        if line and not line.startswith(" "):
            return
        yield line


def describe_type(kind: Any) -> str:
    """Type and range in words.

    >>> describe_type(Annotated[int, Field(ge=0)] | None)
    'whole number, at least 0, or null'
    """
    words = [one.text for one in marks(kind) if isinstance(one, Words)]
    parts = alternatives(kind)
    null = type(None) in parts
    if words:
        text = words[0]
    else:
        text = " or ".join(_one(part) for part in parts if part is not type(None))
    comma = "," if "," in text else ""
    return f"{text}{comma} or null" if null else text


def _one(kind: Any) -> str:
    allowed = allowed_values(kind)
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    origin = get_origin(base) or base
    if inspect.isclass(origin) and issubclass(origin, Sequence) and origin is not str:
        inner = get_args(base)
        noun = f"list of {_one(inner[0])}" if inner else "list"
    elif allowed:
        return "one of " + ", ".join(str(one) for one in allowed)
    elif inspect.isclass(origin) and issubclass(origin, Mapping):
        noun = "group of settings"
    else:
        noun = BASES.get(base, getattr(base, "__name__", "any"))
    return ", ".join([noun, *_bounds(kind)])


def _bounds(kind: Any) -> Iterator[str]:
    if get_origin(kind) is not Annotated:
        return
    for mark in kind.__metadata__:
        for one in getattr(mark, "metadata", [mark]):  # pydantic's Field holds several
            for name, words in BOUNDS.items():
                if hasattr(one, name):
                    yield f"{words} {format_bound(getattr(one, name))}"


def _default(parameter: inspect.Parameter) -> str | None:
    return None if parameter.default is parameter.empty else format_value(parameter.default)


def format_value(value: Any) -> str:
    """A value in the syntax of a configuration."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(format_value(one) for one in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {format_value(one)}' for key, one in value.items())}}}"
    return str(value)
