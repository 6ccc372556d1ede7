"""Settings, each written once: in the signature of the factory (or frozen settings class) that
takes it, with its type, range, default and, in the docstring's `Args:`, its description.

    @check_settings("strategy")
    def krum(f: Count = 3) -> Strategy:
        '''...

        Args:
            f: attackers to tolerate.
        '''

Pydantic checks every value strictly ("7" is no number, true is none, 2.0 is no whole number, NaN
and infinity are no numbers), and the first one that does not fit raises ConfigError with one line:
`strategy.f=-1: must be at least 0`. Values are handed on as they came: a whole number given for a
float stays a whole number. Lists fit where a Sequence is asked for.

Ranges: the aliases below, or `Annotated[float, Field(gt=0, lt=1)]`; words: `Literal["a", "b"]`, or
`OneOf(names)` where they are computed; null: `| None`. `Built` is for objects of other factories,
`Words` says better than the type what is asked for, `Given` marks what is no setting.
`flatten_groups` spreads settings classes in a signature, whose fields then are the factory's keys.
A settings class as a field of another one is a group inside it, `group.field.key`.
`fedrobust.utils.settings_table` makes tables of all this.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, is_dataclass
from dataclasses import fields as dataclass_fields
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from fedrobust.errors import ConfigError
from fedrobust.utils.names import did_you_mean

Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # share of the past that is kept

STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
UNIONS = (Union, types.UnionType)
REQUIRED = "???"  # Hydra's mark of a value to be given
WIDEST = 64  # bits of a whole number: floats can hold it, and arrays can be counted in it
Made = TypeVar("Made")
Factory = TypeVar("Factory", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Words:
    """Words for a value in its error line and its table, where its type says too little:
    `Annotated[Sequence[Share], Words("three numbers in [0, 1]")]`."""

    text: str


@dataclass(frozen=True, slots=True)
class Built(Words):
    """An object that another factory has made, known by its class alone: `Annotated[Strategy,
    Built("a rule with a _target_, as in configs/strategy/median.yaml")]`."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.is_instance_schema(source)


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of some values that are known only when the program runs: `Annotated[str,
    OneOf(tuple(HEADS))]`."""

    values: Collection[Any]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._find)

    def _find(self, value: Any) -> Any:
        if not any(type(value) is type(one) and value == one for one in self.values):
            raise PydanticCustomError("one_of", "one_of")
        return value


@dataclass(frozen=True, slots=True)
class Given:
    """Marks a parameter that is no setting: the program fills it in (the number of classes) and the
    factory checks it."""


def check(key: str, value: Made, kind: Any) -> Made:
    """The value as it came, if it is of this kind.

    Args:
        key: the setting's full name, for the error line.
        value: what was given.
        kind: a type as in a signature, e.g. `Count` or `Literal["a", "b"] | None`.

    Raises:
        ConfigError: one line with key, value and what it must be.
    """
    _check(key, value, kind, _make_adapter(kind))
    return value


def check_told(extras: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """What a server told a client for its trainer under some names; empty where it told nothing
    under any of them.

    Args:
        extras: of the server's message.
        kinds: the kind of each value by its name, as for `check`.

    Raises:
        ValueError: one line on a value that does not fit, or is missing beside the others: the
            message cannot be used.
    """
    if extras.keys().isdisjoint(kinds):
        return {}
    if missing := [name for name in kinds if name not in extras]:
        raise ValueError(f"extras.{missing[0]}: is missing in the server's message")
    try:
        return {name: check(f"extras.{name}", extras[name], kind) for name, kind in kinds.items()}
    except ConfigError as error:
        raise ValueError(str(error)) from None


def check_settings(group: str) -> Callable[[Factory], Factory]:
    """Decorator that checks the arguments of a factory, or of a dataclass, by its signature before
    they are used.

    Args:
        group: the group's name, with which the keys of its error lines begin; empty where keys
            stand alone.
    """

    def decorate(factory: Factory) -> Factory:
        if inspect.isclass(factory):
            setattr(factory, "__init__", _checking(group, factory, factory.__init__))  # noqa: B010
            return factory
        return _checking(group, factory, factory)  # type: ignore[return-value]

    return decorate


def _checking(
    group: str, source: Callable[..., Any], function: Callable[..., Any]
) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.cache  # on the first call: names in annotations may be defined below the factory
    def kinds() -> dict[str, Any]:
        found = setting_types(source)
        return {name: kind for name, kind in found.items() if name in signature.parameters}

    @functools.cache
    def adapter(name: str) -> TypeAdapter[Any]:
        return _make_adapter(kinds()[name])

    @functools.wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            kind = kinds().get(name)
            if kind is None:
                continue
            key = f"{group}.{name}" if group else name
            if is_settings_class(kind):
                bound.arguments[name] = make_settings(key, value, kind)
            else:
                _check(key, value, kind, adapter(name))
        return function(*bound.args, **bound.kwargs)

    return checking


def make_settings(key: str, value: Any, kind: type[Made]) -> Made:
    """A settings class from what a configuration holds for it.

    Args:
        key: the full name of the group, for error lines.
        value: its settings as a mapping; an instance of the class is kept.
        kind: the settings class.

    Raises:
        ConfigError: a setting is unknown, missing or wrong.
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        known = inspect.signature(kind).parameters
        raise ConfigError(f"{key}={value}: must be a group of settings: {', '.join(known)}")
    check_names(key, value, kind)
    return kind(**value)


def _make_adapter(kind: Any) -> TypeAdapter[Any]:
    # a dataclass alone may have no other configuration than its own
    alone = len(alternatives(kind)) == 1 and any(isinstance(one, Built) for one in marks(kind))
    return TypeAdapter(kind, config=None if alone else STRICT)


def check_names(path: str, given: Mapping[str, Any], factory: Callable[..., Any]) -> None:
    """Whether these are settings of a factory or settings class, and all that it needs.

    Args:
        path: the full name of what holds them, for the error line.
        given: the settings.
        factory: what takes them.

    Raises:
        ConfigError: an unknown setting, with the known ones; or one that is missing.
    """
    known = inspect.signature(factory).parameters
    for key, value in given.items():
        if key not in known:
            raise ConfigError(
                f"{path}.{key}={value}: unknown setting; {did_you_mean(str(key), known)}"
                f"known are {', '.join(known)}"
            )
    for key, one in known.items():
        if one.default is one.empty and key not in given and one.kind is not one.VAR_POSITIONAL:
            raise ConfigError(f"{path}.{key}: is missing; set {path}.{key}=...")


def setting_types(factory: Callable[..., Any]) -> dict[str, Any]:
    """The types of all settings of a factory or settings class, without those that are `Given`."""
    hints = get_type_hints(inspect.unwrap(factory), include_extras=True)
    return {
        name: kind
        for name, kind in hints.items()
        if name != "return" and not any(isinstance(one, Given) for one in marks(kind))
    }


def is_settings_class(kind: Any) -> bool:
    """Whether it is a dataclass whose arguments are checked."""
    return inspect.isclass(kind) and is_dataclass(kind) and hasattr(kind.__init__, "__wrapped__")


def flatten_groups(factory: Callable[..., Made]) -> Callable[..., Made]:
    """Decorator (above `check_settings`) for a factory that takes settings classes: the fields of
    each become its own keywords, so that each setting is written once, in its class, and keys stay
    flat. An instance of a class is accepted under the parameter's name, too."""
    own = inspect.signature(factory)
    groups = {
        name: kind for name, kind in setting_types(factory).items() if is_settings_class(kind)
    }
    fields = {name: _list_fields(kind) for name, kind in groups.items()}
    flat = [
        parameter.replace(kind=parameter.KEYWORD_ONLY) if name in groups else parameter
        for name in own.parameters
        for parameter in (fields[name].values() if name in groups else [own.parameters[name]])
    ]

    @functools.wraps(factory)
    def flattened(*args: Any, **kwargs: Any) -> Made:
        for name, kind in groups.items():
            if not isinstance(kwargs.get(name), kind):
                given = {key: kwargs.pop(key) for key in fields[name] if key in kwargs}
                kwargs[name] = kind(**given)
        return factory(*args, **kwargs)

    setattr(flattened, "__signature__", own.replace(parameters=flat))  # noqa: B010
    setattr(flattened, "__groups__", groups)  # noqa: B010
    return flattened


def _list_fields(kind: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a settings class; those with a default factory show what it makes."""
    found = dict(inspect.signature(kind).parameters)
    for one in dataclass_fields(kind):
        if one.default_factory is not MISSING:
            found[one.name] = found[one.name].replace(default=one.default_factory())
    return found


def _check(key: str, value: Any, kind: Any, adapter: TypeAdapter[Any]) -> None:
    if any(one.bit_length() > WIDEST for one in _whole_numbers(value)):
        raise ConfigError(f"{key}: must be a number of at most {WIDEST} bits")
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        raise ConfigError(_line(key, value, kind, error.errors(include_url=False))) from None


def _whole_numbers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _whole_numbers(one)


def _line(key: str, value: Any, kind: Any, errors: Sequence[ErrorDetails]) -> str:
    words = next((one.text for one in marks(kind) if isinstance(one, Words)), None)
    if words is not None:
        null = "null or " if type(None) in alternatives(kind) else ""
        return f"{key}={value}: must be {null}{words}"
    place = _indices(errors[0])
    # alternatives (`int | str`) each say what is wrong
    reasons = dict.fromkeys(_reason(one, kind) for one in errors if _indices(one) == place)
    return f"{key}={errors[0]['input']}: must be {' or '.join(reasons)}"


def _indices(error: ErrorDetails) -> list[int]:
    return [part for part in error["loc"] if isinstance(part, int)]


NOUNS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "sequence": "a list",
    "tuple": "a list",
    "mapping": "a group of settings",
    "dict": "a group of settings",
}
BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _reason(error: ErrorDetails, kind: Any) -> str:
    """Requirement on the value, without "must be"."""
    name, context = error["type"], error.get("ctx", {})
    if name in BOUNDS:
        words, bound = BOUNDS[name]
        return f"{words} {format_bound(context[bound])}"
    if name in {"literal_error", "one_of"}:
        return f"one of {', '.join(str(one) for one in allowed_values(kind))}"
    if name == "too_short":
        return f"a list of at least {context['min_length']}"
    if name == "too_long":
        return f"a list of at most {context['max_length']}"
    if name == "is_instance_of" and context["class"] == "Sequence":
        return "a list"
    return NOUNS.get(name.split("_")[0], error["msg"])


def format_bound(bound: float) -> str:
    """A bound in the syntax of a configuration: 1, not 1.0."""
    return str(int(bound)) if bound == int(bound) else str(bound)


def marks(kind: Any) -> Iterator[Any]:
    """Annotations beside the types in a signature's `Annotated`, at any depth."""
    if get_origin(kind) is Annotated:
        yield from kind.__metadata__
    if get_origin(kind) is not Literal:
        for one in get_args(kind):
            yield from marks(one)


def alternatives(kind: Any) -> list[Any]:
    """The types of a union; the type itself where it is none."""
    if get_origin(kind) is Annotated and get_origin(get_args(kind)[0]) in UNIONS:
        return alternatives(get_args(kind)[0])
    return list(get_args(kind)) if get_origin(kind) in UNIONS else [kind]


def allowed_values(kind: Any) -> list[Any]:
    """The words that a type allows."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    found = [value for one in get_args(kind) for value in allowed_values(one)]
    return found or [value for one in marks(kind) if isinstance(one, OneOf) for value in one.values]
